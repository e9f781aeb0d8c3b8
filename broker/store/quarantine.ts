import type { Clock } from '../../devices/clock.ts';
import type { Metrics } from '../metrics.ts';
import type { RefusedLine } from './history.ts';
import type { State } from './state.ts';
import { valuesUnder } from './values.ts';

/** Rows that History refused by themselves, with its words: the newest ten thousand, in State. */
export type QuarantinedRow = RefusedLine & { readonly at: number };

const PREFIX = 'quarantine/';
export const QUARANTINED_MAX = 10_000;
const DIGITS = 12;

export class Quarantine {
  readonly #state: State;
  readonly #metrics: Metrics;
  readonly #clock: Clock;
  #first = 0;
  #next = 0;

  constructor(state: State, metrics: Metrics, clock: Clock) {
    this.#state = state;
    this.#metrics = metrics;
    this.#clock = clock;
  }

  async load(): Promise<void> {
    for await (const [key] of this.#state.scan(PREFIX)) {
      this.#first = Number(key.slice(PREFIX.length));
      break;
    }
    for await (const [key] of this.#state.scan(PREFIX, { reverse: true })) {
      this.#next = Number(key.slice(PREFIX.length)) + 1;
      break;
    }
  }

  get size(): number {
    return this.#next - this.#first;
  }

  async keep(rows: readonly RefusedLine[]): Promise<void> {
    const at = this.#clock.now();
    const changes = rows.map((row) => ({
      put: slotKey(this.#next++),
      value: JSON.stringify({ ...row, at } satisfies QuarantinedRow),
    }));
    const dropped: { del: string }[] = [];
    while (this.size > QUARANTINED_MAX) dropped.push({ del: slotKey(this.#first++) });
    await this.#state.commit([...changes, ...dropped], []);
    this.#metrics.quarantined.inc(rows.length);
  }

  /** Newest first, those before the row numbered `before`. */
  async list(options: { limit: number; before?: number | undefined }): Promise<(QuarantinedRow & { n: number })[]> {
    const rows: (QuarantinedRow & { n: number })[] = [];
    const after = options.before === undefined ? {} : { after: slotKey(options.before) };
    for await (const [key, row] of valuesUnder<QuarantinedRow>(this.#state, PREFIX, { reverse: true, ...after })) {
      rows.push({ n: Number(key.slice(PREFIX.length)), ...row });
      if (rows.length >= options.limit) break;
    }
    return rows;
  }
}

function slotKey(n: number): string {
  return PREFIX + String(n).padStart(DIGITS, '0');
}
