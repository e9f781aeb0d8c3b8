import type { Turn } from './read-gate.ts';

/**
 * How much of what connections have sent is dealt with in one turn of the event loop, so that nobody's flood keeps the others waiting. It is read at the end of
 * the turn in which it came: telemetry is much, and what came by HTTP in the same turn does not wait behind it. A connection goes on
 * for a few milliseconds, and all of one turn for a few more; then it waits, and those that wait go on one a turn, in their order.
 */
const SLICE_MS_MAX = 3;
const TURN_MS_MAX = 8;

export class ReadingTurns {
  readonly #now: () => number;
  readonly #waiting: (() => void)[] = [];
  /** Those that have sent something. */
  readonly #line: Turn[] = [];
  /** When the first of this turn began. */
  #beganAt: number | undefined;
  #isToGoOn = false;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#line.length + this.#waiting.length;
  }

  /** It reads at the end of this turn, or of a later one, after all those that came before. */
  lineUp(turn: Turn): void {
    this.#line.push(turn);
    if (this.#line.length === 1) setImmediate(this.#readLine);
  }

  readonly #readLine = (): void => {
    const until = this.#now() + TURN_MS_MAX;
    let read = 0;
    try {
      do this.#line[read++]?.read();
      while (read < this.#line.length && this.#now() < until);
    } finally {
      this.#line.splice(0, read);
      if (this.#line.length > 0) setImmediate(this.#readLine);
    }
  };

  /** A connection begins: until when it may go on, which may be now. Whoever begins does a little all the same. */
  begin(): number {
    const now = this.#now();
    if (this.#beganAt === undefined) {
      this.#beganAt = now;
      setImmediate(() => (this.#beganAt = undefined));
    }
    return Math.min(now + SLICE_MS_MAX, this.#beganAt + TURN_MS_MAX);
  }

  isOver(until: number): boolean {
    return this.#now() >= until;
  }

  /** Calls `goOn` in a later turn, once it is its turn. */
  wait(goOn: () => void): void {
    this.#waiting.push(goOn);
    if (this.#isToGoOn) return;
    this.#isToGoOn = true;
    setImmediate(this.#next);
  }

  /** Resolves in a later turn, once it is its turn. */
  pass(): Promise<void> {
    return new Promise((resolve) => this.wait(resolve));
  }

  readonly #next = (): void => {
    const goOn = this.#waiting.shift();
    this.#isToGoOn = this.#waiting.length > 0;
    if (this.#isToGoOn) setImmediate(this.#next);
    goOn?.();
  };
}
