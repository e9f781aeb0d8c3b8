import type { Report } from '../../devices/report.ts';
import { backoffMs, delay } from './backoff.ts';
import type { Delivery } from './device-client.ts';
import { isWorthRetrying, problemOf, type HttpAnswer, type JsonHttp } from './json-http.ts';

/**
 * Reports on their way by HTTP, until the server has taken them or refused them for good. One request at a time, one report
 * a command: a newer one takes the place of an older, and nothing follows an end.
 */
export class ReportOutbox {
  readonly #http: JsonHttp;
  readonly #settled: (commandId: string, report: Report, delivery: Delivery, code?: string) => void;
  readonly #waiting = new Map<string, { report: Report; attempts: number }>();
  readonly #stop: AbortSignal;
  #flushing: Promise<void> | undefined;

  constructor(
    http: JsonHttp,
    settled: (commandId: string, report: Report, delivery: Delivery, code?: string) => void,
    stop: AbortSignal,
  ) {
    this.#http = http;
    this.#settled = settled;
    this.#stop = stop;
  }

  /** Sends it as soon as those before it are through. */
  add(commandId: string, report: Report): void {
    const waiting = this.#waiting.get(commandId);
    if (waiting !== undefined && waiting.report.state !== 'running') return;
    if (waiting === undefined && this.#waiting.size >= REPORTS_MAX) this.#dropOldest();
    this.#waiting.set(commandId, { report, attempts: 0 });
    void this.flush();
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** Sends all that waits. Resolves when it is through, or when the server could not be had for a while: the rest waits for the next flush. */
  flush(): Promise<void> {
    this.#flushing ??= this.#flush().finally(() => (this.#flushing = undefined));
    return this.#flushing;
  }

  async #flush(): Promise<void> {
    let failures = 0;
    // Begun in a later turn, so that a flush begun by `add` is known before it ends.
    await Promise.resolve();
    for (let next = this.#first(); next !== undefined && failures < FAILURES_A_FLUSH; next = this.#first()) {
      const [commandId, { report }] = next;
      const answer = await this.#send(commandId, report);
      if (answer !== undefined && !isWorthRetrying(answer.status)) {
        failures = 0;
        this.#take(commandId, report, answer);
        continue;
      }
      failures += 1;
      next[1].attempts += 1;
      if (next[1].attempts >= ATTEMPTS_MAX) this.#drop(commandId, report);
      if (this.#stop.aborted) return;
      await delay(answer?.retryAfterMs ?? backoffMs(failures, RETRY), this.#stop);
    }
  }

  async #send(commandId: string, report: Report): Promise<HttpAnswer | undefined> {
    try {
      return await this.#http('POST', `/v1/device/commands/${encodeURIComponent(commandId)}`, report);
    } catch {
      return undefined;
    }
  }

  #take(commandId: string, report: Report, answer: HttpAnswer): void {
    // Unless a newer one has taken its place meanwhile.
    if (this.#waiting.get(commandId)?.report === report) this.#waiting.delete(commandId);
    if (answer.status < 300) this.#settled(commandId, report, 'stored');
    else this.#settled(commandId, report, 'refused', problemOf(answer).code);
  }

  #first(): [string, { report: Report; attempts: number }] | undefined {
    const first = this.#waiting.entries().next();
    return first.done ? undefined : first.value;
  }

  #dropOldest(): void {
    const oldest = this.#first();
    if (oldest !== undefined) this.#drop(oldest[0], oldest[1].report);
  }

  #drop(commandId: string, report: Report): void {
    this.#waiting.delete(commandId);
    this.#settled(commandId, report, 'dropped');
  }
}

const REPORTS_MAX = 1_000;
const ATTEMPTS_MAX = 100;
const FAILURES_A_FLUSH = 5;
const RETRY = { minMs: 250, maxMs: 10_000 };
