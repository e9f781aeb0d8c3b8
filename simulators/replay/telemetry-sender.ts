import { MESSAGE_BYTES_MAX, READINGS_MAX, STRING_BYTES_MAX, type MetricValue } from '../../devices/telemetry.ts';
import { backoffMs, delay } from '../client/backoff.ts';
import { isWorthRetrying, problemOf, type HttpAnswer, type JsonHttp } from '../client/json-http.ts';
import { UserError } from '../user-error.ts';

/** How long the server may take none of it before we give up. */
const STALLED_MS_MAX = 300_000;
const RETRY = { minMs: 200, maxMs: 10_000 };

/**
 * Sends the readings of one metric in messages as large as the server takes. A message that was not answered is sent again; the same times
 * are the same readings. Of two readings with one time the later must come last: those in one message are told apart here, and
 * where a time may come again further on, messages must go `oneByOne`.
 */
export class TelemetrySender {
  readonly #parts: SenderParts;
  readonly #underWay = new Set<Promise<void>>();
  #batch = new Map<number, MetricValue>();
  #rows = 0;
  #bytes = 0;
  #failure: Error | undefined;
  /** Rows that the server has acknowledged. */
  sent = 0;

  constructor(parts: SenderParts) {
    this.#parts = parts;
  }

  async add(ts: number, value: MetricValue): Promise<void> {
    const bytes = SAMPLE_BYTES + this.#parts.metric.length + Buffer.byteLength(JSON.stringify(value));
    const isFull = this.#batch.size >= READINGS_MAX || this.#bytes + bytes > BATCH_BYTES_MAX;
    // A time that comes again right away stays in one message, where messages may overtake each other.
    if (isFull && (this.#parts.oneByOne || !this.#batch.has(ts))) await this.flush();
    this.#bytes += bytes;
    this.#batch.set(ts, value);
    this.#rows += 1;
  }

  /** Sends what was added, as soon as there is a place for it. Throws what `drain` throws. */
  async flush(): Promise<void> {
    while (this.#underWay.size >= (this.#parts.oneByOne ? 1 : MESSAGES_AT_ONCE)) await Promise.race(this.#underWay);
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#batch.size === 0) return;
    const { metric } = this.#parts;
    const rows = this.#rows;
    const message = [...this.#batch].map(([ts, value]) => ({ ts, values: { [metric]: value } }));
    const sending = this.#send(message)
      .then((isSent) => {
        if (isSent) this.sent += rows;
      })
      .catch((error: Error) => {
        this.#failure ??= error;
      })
      .finally(() => this.#underWay.delete(sending));
    this.#underWay.add(sending);
    this.#batch = new Map();
    this.#rows = 0;
    this.#bytes = 0;
  }

  /** Sends all. Throws UserError when the server refuses it, or takes nothing for too long. */
  async drain(): Promise<void> {
    await this.flush();
    await Promise.all(this.#underWay);
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** False when it was stopped before the server had it. */
  async #send(message: unknown): Promise<boolean> {
    const { signal, onWait } = this.#parts;
    const until = performance.now() + STALLED_MS_MAX;
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      const answer = await this.#post(message);
      if (typeof answer === 'object' && answer.status < 300) return true;
      const why = typeof answer === 'string' ? answer : problemOf(answer).message;
      if (typeof answer === 'object' && !isWorthRetrying(answer.status)) throw refused(answer, why);
      if (performance.now() > until)
        throw new UserError(`The server takes nothing: ${why}. What it has taken is safe; start again later.`);
      onWait(why);
      await delay((typeof answer === 'object' ? answer.retryAfterMs : undefined) ?? backoffMs(attempt, RETRY), signal);
    }
    return false;
  }

  async #post(message: unknown): Promise<HttpAnswer | string> {
    try {
      return await this.#parts.http('POST', '/v1/device/telemetry', message);
    } catch (error) {
      const { cause, message: text } = error as Error;
      return `no answer (${cause instanceof Error ? cause.message : text})`;
    }
  }
}

export type SenderParts = {
  readonly http: JsonHttp;
  readonly metric: string;
  readonly oneByOne: boolean;
  readonly signal: AbortSignal;
  readonly onWait: (why: string) => void;
};

const MESSAGES_AT_ONCE = 4;
/** With room for a last value that replaces a shorter one. */
const BATCH_BYTES_MAX = MESSAGE_BYTES_MAX - 2 * STRING_BYTES_MAX;
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
