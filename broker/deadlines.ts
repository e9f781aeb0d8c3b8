import TinyQueue from 'tinyqueue';
import { SECOND_MS, type Clock } from '../devices/clock.ts';

/**
 * One timer for any number of deadlines. Each id has at most one; setting it again replaces it. The clock is looked at once a second at the
 * least, so a step of the system's clock is noticed.
 */
type Entry = { readonly id: string; readonly at: number };

const DUE_PER_TURN_MAX = 1_000;
const STALE_KEPT_MAX = 1_024;
/** Less is the clock being slewed. */
const STEP_BACK_MS_MIN = 5_000;

export class Deadlines {
  readonly #clock: Clock;
  readonly #onDue: (id: string) => void;
  readonly #onStepBack: () => void;
  /** By id, the one that counts; the heap has those that were set before as well. */
  readonly #current = new Map<string, Entry>();
  #heap = new TinyQueue<Entry>([], byTime);
  #timer: NodeJS.Timeout | undefined;
  #armedFor = Number.POSITIVE_INFINITY;
  #lastNow = Number.NEGATIVE_INFINITY;

  /** `onStepBack` is called within a second or so after the clock was set back by more than a few seconds, while there are deadlines. */
  constructor(clock: Clock, onDue: (id: string) => void, onStepBack: () => void = () => {}) {
    this.#clock = clock;
    this.#onDue = onDue;
    this.#onStepBack = onStepBack;
  }

  set(id: string, at: number | undefined): void {
    if (at === undefined) {
      this.#current.delete(id);
    } else if (this.#current.get(id)?.at !== at) {
      const entry = { id, at };
      this.#current.set(id, entry);
      this.#heap.push(entry);
      if (at < this.#armedFor) this.#arm();
    }
    if (this.#heap.length > 2 * this.#current.size + STALE_KEPT_MAX) this.#compact();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#current.clear();
    this.#heap = new TinyQueue<Entry>([], byTime);
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const top = this.#heap.peek();
    if (top === undefined) {
      this.#armedFor = Number.POSITIVE_INFINITY;
      return;
    }
    this.#armedFor = top.at;
    const delayMs = Math.min(Math.max(top.at - this.#clock.now(), 0), SECOND_MS);
    this.#timer = setTimeout(() => this.#run(), delayMs);
    this.#timer.unref();
  }

  #run(): void {
    const now = this.#clock.now();
    if (now < this.#lastNow - STEP_BACK_MS_MIN) this.#onStepBack();
    this.#lastNow = now;
    for (let done = 0; done < DUE_PER_TURN_MAX;) {
      const top = this.#heap.peek();
      if (top === undefined || top.at > now) break;
      this.#heap.pop();
      if (this.#current.get(top.id) !== top) continue;
      this.#current.delete(top.id);
      this.#onDue(top.id);
      done += 1;
    }
    this.#arm();
  }

  #compact(): void {
    this.#heap = new TinyQueue([...this.#current.values()], byTime);
  }
}

function byTime(a: Entry, b: Entry): number {
  return a.at - b.at;
}
