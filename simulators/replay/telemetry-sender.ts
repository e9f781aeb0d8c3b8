import { MESSAGE_BYTES_MAX, READINGS_MAX, type MetricValue } from '../../devices/telemetry.ts';
import { backoffMs, delay } from '../client/backoff.ts';
import { isWorthRetrying, problemOf, type HttpAnswer, type JsonHttp } from '../client/json-http.ts';
import { UserError } from '../user-error.ts';

/** How long the server may take none of it before we give up. */
const STALLED_MS_MAX = 300_000;
const RETRY = { minMs: 200, maxMs: 10_000 };

/**
 * Sends the readings of one metric in messages as large as the server takes, one after the other: of two readings with one time
 * the later one must come last. A message that was not answered is sent again; the same times are the same readings.
 */
export class TelemetrySender {
  readonly #http: JsonHttp;
  readonly #metric: string;
  readonly #signal: AbortSignal;
  readonly #onWait: (why: string) => void;
  #batch = new Map<number, MetricValue>();
  #rows = 0;
  #bytes = 0;
  /** Rows that the server has acknowledged. */
  sent = 0;

  constructor(parts: { http: JsonHttp; metric: string; signal: AbortSignal; onWait: (why: string) => void }) {
    this.#http = parts.http;
    this.#metric = parts.metric;
    this.#signal = parts.signal;
    this.#onWait = parts.onWait;
  }

  async add(ts: number, value: MetricValue): Promise<void> {
    const bytes = SAMPLE_BYTES + this.#metric.length + Buffer.byteLength(JSON.stringify(value));
    if (this.#batch.size >= READINGS_MAX || this.#bytes + bytes > MESSAGE_BYTES_MAX) await this.flush();
    this.#batch.set(ts, value);
    this.#rows += 1;
    this.#bytes += bytes;
  }

  /** Sends what was added. Throws UserError when the server refuses it, or takes nothing for too long. */
  async flush(): Promise<void> {
    if (this.#batch.size === 0) return;
    const message = [...this.#batch].map(([ts, value]) => ({ ts, values: { [this.#metric]: value } }));
    const until = performance.now() + STALLED_MS_MAX;
    for (let attempt = 0; !this.#signal.aborted; attempt += 1) {
      const answer = await this.#post(message);
      if (typeof answer === 'object' && answer.status < 300) break;
      const why = typeof answer === 'string' ? answer : problemOf(answer).message;
      if (typeof answer === 'object' && !isWorthRetrying(answer.status)) throw refused(answer, why);
      if (performance.now() > until)
        throw new UserError(`The server takes nothing: ${why}. What it has taken is safe; start again later.`);
      this.#onWait(why);
      await delay((typeof answer === 'object' ? answer.retryAfterMs : undefined) ?? backoffMs(attempt, RETRY), this.#signal);
    }
    if (this.#signal.aborted) return;
    this.sent += this.#rows;
    this.#batch = new Map();
    this.#rows = 0;
    this.#bytes = 0;
  }

  async #post(message: unknown): Promise<HttpAnswer | string> {
    try {
      return await this.#http('POST', '/v1/device/telemetry', message);
    } catch (error) {
      const { cause, message: text } = error as Error;
      return `no answer (${cause instanceof Error ? cause.message : text})`;
    }
  }
}

/** `{"ts":1700000000000,"values":{"":}},` and some for a sign. */
const SAMPLE_BYTES = 40;

function refused(answer: HttpAnswer, why: string): UserError {
  if (answer.status === 401) {
    return new UserError(
      'The server refuses the token of this device. Pass another with --token T, or give it a new one with --rotate-token.',
    );
  }
  return new UserError(`The server refuses the readings: ${why}.`);
}
