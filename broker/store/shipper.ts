import { setTimeout as wait } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import type { History } from './history.ts';
import type { HistoryPace } from './history-pace.ts';
import type { Quarantine } from './quarantine.ts';
import type { State } from './state.ts';

/**
 * Moves the journal into History: in order, in batches, again and again until History has them, and only then forgets them. Rows that
 * History refuses by themselves go to quarantine with its words, and nothing stops for them.
 */
const BATCH_BYTES_MAX = 1024 * 1024;
/** How long rows gather: for a few, a shipment and its fsync cost nearly as much as for many, and take turns from commits. */
const GATHER_MS = 100;
const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 5_000;

export class Shipper {
  readonly #state: State;
  readonly #history: History;
  readonly #quarantine: Quarantine;
  readonly #pace: HistoryPace;
  readonly #metrics: Metrics;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  #wake: () => void = () => {};
  #hurry: () => void = () => {};
  #through = 0;
  readonly #waiting = new Set<{ head: number; resolve: () => void }>();
  #failure: string | undefined;
  #running: Promise<void> | undefined;

  constructor(state: State, history: History, quarantine: Quarantine, pace: HistoryPace, metrics: Metrics, log: Logger) {
    this.#state = state;
    this.#history = history;
    this.#quarantine = quarantine;
    this.#pace = pace;
    this.#metrics = metrics;
    this.#log = log;
  }

  /** Why the last shipment failed; undefined while all is well. */
  get failure(): string | undefined {
    return this.#failure;
  }

  start(): void {
    this.#state.journal.onAppend(() => {
      this.#wake();
      if (this.#isPressed()) this.#hurry();
    });
    this.#running ??= this.#run();
  }

  /**
   * Resolves with true once all that was acknowledged before the call is in History, so that a query sees it; with false after `waitMsMax`, or
   * at once while History is failing.
   */
  async caughtUp(waitMsMax: number): Promise<boolean> {
    const { head } = this.#state.journal;
    if (this.#through >= head) return true;
    if (this.#failure !== undefined) return false;
    await new Promise<void>((resolve) => {
      const waiting = {
        head,
        resolve: () => {
          clearTimeout(timer);
          this.#waiting.delete(waiting);
          resolve();
        },
      };
      const timer = setTimeout(waiting.resolve, waitMsMax);
      this.#waiting.add(waiting);
      this.#hurry();
    });
    return this.#through >= head;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.#wake();
    this.#hurry();
    await this.#running;
    this.#pace.failed();
    this.#release(Number.POSITIVE_INFINITY);
  }

  async #run(): Promise<void> {
    let backoffMs = BACKOFF_MS_MIN;
    while (!this.#stop.signal.aborted) {
      try {
        const hadWork = await this.#shipOne();
        if (this.#failure !== undefined) this.#log.info('History takes rows again');
        this.#failure = undefined;
        backoffMs = BACKOFF_MS_MIN;
        if (!hadWork) await this.#appended();
        await this.#gathered();
      } catch (error) {
        this.#metrics.historyFailures.inc();
        const { message } = error as Error;
        if (this.#failure === undefined) this.#log.warn(`History does not take rows, the journal keeps them: ${message}`);
        this.#failure = message;
        this.#pace.failed();
        this.#release(Number.POSITIVE_INFINITY);
        await wait(backoffMs * (0.5 + Math.random()), undefined, { signal: this.#stop.signal }).catch(() => {});
        backoffMs = Math.min(backoffMs * 2, BACKOFF_MS_MAX);
      }
    }
  }

  async #shipOne(): Promise<boolean> {
    const { head } = this.#state.journal;
    const batch = await this.#state.journal.read(this.#through, BATCH_BYTES_MAX);
    if (batch === undefined) {
      // Nothing is left of what came before: an earlier run shipped it.
      this.#through = Math.max(this.#through, head);
      this.#release(this.#through);
      return false;
    }
    const refused = await this.#history.append(batch.lines);
    if (refused.length > 0) await this.#quarantine.keep(refused);
    // Not waited for: until it is written, a crash ships these rows again, which changes nothing.
    this.#state.journal.trim(batch.through).catch(() => {});
    this.#through = batch.through;
    this.#pace.shipped(batch.lines.length);
    this.#release(batch.through);
    return true;
  }

  #release(through: number): void {
    for (const waiting of this.#waiting) {
      if (waiting.head <= through) waiting.resolve();
    }
  }

  #appended(): Promise<void> {
    if (this.#state.journal.head > this.#through || this.#stop.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  async #gathered(): Promise<void> {
    if (this.#isPressed()) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, GATHER_MS);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Somebody waits for History, there is enough for a whole batch, or the server stops. */
  #isPressed(): boolean {
    return this.#waiting.size > 0 || this.#state.journal.bytes >= BATCH_BYTES_MAX || this.#stop.signal.aborted;
  }
}
