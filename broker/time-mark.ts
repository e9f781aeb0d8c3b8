import type { Clock } from '../devices/clock.ts';
import type { Change, State } from './store/state.ts';

/**
 * The latest time that was given to anything, kept in State, so that a clock which was set back while the server was down gives no time twice. It is
 * written ahead in strides, with the commit that first needs it, and so costs next to nothing.
 */
export const TIME_MARK_KEY = 'meta/time-mark';
/** A restart takes longer, so that the clock is past the mark by then unless it was set back. */
const STRIDE_MICROS = 100_000;
const NOTHING: readonly Change[] = [];
const MICROS_PER_MS = 1_000;

/** The value of a mark that is no earlier than `kept` (a value, or undefined) and `micros`. */
export function raisedMark(kept: string | undefined, micros: number): string {
  const floor = Number(kept ?? '0');
  return String(Math.max(Number.isSafeInteger(floor) ? floor : 0, Math.floor(micros)));
}

export class TimeMark {
  /** Epoch microseconds: no earlier run has given this time or a later one. */
  readonly floorMicros: number;
  #highestMicros: number;
  #writtenMicros: number;

  private constructor(floorMicros: number) {
    this.floorMicros = floorMicros;
    this.#highestMicros = floorMicros;
    this.#writtenMicros = floorMicros;
  }

  static async load(state: State): Promise<TimeMark> {
    const micros = Number((await state.get(TIME_MARK_KEY)) ?? '0');
    return new TimeMark(Number.isSafeInteger(micros) ? micros : 0);
  }

  /** What has to be committed with, or before, something that carries the time `micros`. */
  changesFor(micros: number): readonly Change[] {
    if (micros > this.#highestMicros) this.#highestMicros = micros;
    if (this.#highestMicros < this.#writtenMicros) return NOTHING;
    this.#writtenMicros = this.#highestMicros + STRIDE_MICROS;
    return [{ put: TIME_MARK_KEY, value: String(this.#writtenMicros) }];
  }

  /** A commit failed: the mark may not be on disk. */
  unsure(): void {
    this.#writtenMicros = 0;
  }

  /** The clock, no earlier than what earlier runs have given. */
  clockFrom(clock: Clock): Clock {
    const floorMs = Math.ceil(this.floorMicros / MICROS_PER_MS);
    return { now: () => Math.max(clock.now(), floorMs) };
  }
}
