import type { Change, Entry } from '../state.ts';

/**
 * What is written together: the changes with the last value of each key, the rows in order. It shares one promise too, so that its callers go on in the
 * order in which they came; what lingered and what was urgent go before.
 */
export class CommitBatch {
  /** By key, with the last value of each; undefined where it is deleted. */
  readonly changes = new Map<string, string | (() => string) | undefined>();
  readonly durable: Promise<void>;
  /** Octets at least of its rows, as far as they are made. */
  lineChars = 0;
  /** Somebody waits for it. */
  isWanted = false;
  readonly #lines: string[] = [];
  /** The last row of each thing that has one at a time. */
  readonly #latest = new Map<string, () => string>();
  readonly #takenIn: Settler[] = [];
  readonly #settler = new Settler();
  #urgent: Settler | undefined;

  constructor() {
    this.durable = this.#settler.promise;
  }

  /** For those who go on before all others. */
  get durableFirst(): Promise<void> {
    this.#urgent ??= new Settler();
    return this.#urgent.promise;
  }

  join(changes: readonly Change[], entries: readonly Entry[]): void {
    for (const change of changes) {
      if ('put' in change) this.changes.set(change.put, change.value);
      else this.changes.set(change.del, undefined);
    }
    for (const entry of entries) {
      if (typeof entry === 'string') this.#lines.push(entry);
      else this.#latest.set(entry.of, entry.row);
    }
    this.lineChars += charsOf(entries);
  }

  /** What lingered, which came before what joins from now on. */
  takeIn(lingering: Lingering): void {
    const { steps, settler } = lingering.take();
    for (const { changes, entries } of steps) this.join(changes, entries);
    this.#takenIn.push(settler);
  }

  /** Its rows as text, each with its newline. Makes those that are made only when they are written. */
  text(): string {
    for (const row of this.#latest.values()) this.#lines.push(row());
    return this.#lines.length === 0 ? '' : `${this.#lines.join('\n')}\n`;
  }

  resolve(): void {
    for (const settler of this.#takenIn) settler.resolve();
    this.#urgent?.resolve();
    this.#settler.resolve();
  }

  reject(error: Error): void {
    for (const settler of this.#takenIn) settler.reject(error);
    this.#urgent?.reject(error);
    this.#settler.reject(error);
  }
}

/** What is not yet in any batch. */
export class Lingering {
  /** Milliseconds, by a clock that does not go back. */
  readonly since: number;
  #held: Held | undefined = { steps: [], settler: new Settler() };

  constructor(since: number) {
    this.since = since;
  }

  /** Resolves once it is durable. */
  add(step: Step): Promise<void> {
    const { steps, settler } = this.#whatIsHeld();
    steps.push(step);
    return settler.promise;
  }

  /** It is left empty: the tables that a map of many comings and goings has outgrown still hold what was in them, and V8 copies all of that. */
  take(): Held {
    const held = this.#whatIsHeld();
    this.#held = undefined;
    return held;
  }

  #whatIsHeld(): Held {
    if (this.#held === undefined) throw new Error('bug: what lingered is in a batch already');
    return this.#held;
  }
}

type Held = { readonly steps: Step[]; readonly settler: Settler };
type Step = { readonly changes: readonly Change[]; readonly entries: readonly Entry[] };

/** A promise to be settled from outside. */
class Settler {
  readonly promise: Promise<void>;
  resolve: () => void = () => {};
  reject: (error: Error) => void = () => {};

  constructor() {
    this.promise = new Promise<void>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // Whoever waits for it handles it; perhaps nobody does.
    this.promise.catch(() => {});
  }
}

/** Of rows that are made only when they are written nothing is known yet: they are of steps, which the bound does not hold up. */
export function charsOf(entries: readonly Entry[]): number {
  let chars = 0;
  for (const entry of entries) if (typeof entry === 'string') chars += entry.length + 1;
  return chars;
}
