import type { Journal } from './state.ts';

/**
 * Holds acknowledgements of telemetry back while History takes rows, and takes fewer than come: a sender that waits for them goes no faster than
 * History does, and the journal stops growing long before its bound. A History that is away or stands still holds nothing back: the journal is
 * there for that.
 */

/** What is gone in a second or so; a herd that wakes brings as much. */
const HELD_FROM_BYTES = 4 * 1024 * 1024;
/** Of what History takes, so much may come meanwhile: the rest lets the journal shrink. */
const REFILL_FRACTION = 0.9;
const HOLD_MS_MAX = 500;
/** After so long without a shipment nothing is held. */
const STANDSTILL_MS = 1_000;

type Held = { readonly octets: number; readonly until: number; readonly release: () => void };

export class HistoryPace {
  readonly #journal: Pick<Journal, 'bytes'>;
  readonly #onHeld: () => void;
  readonly #now: () => number;
  readonly #held: Held[] = [];
  #timer: NodeJS.Timeout | undefined;
  /** How large the journal may be without anything being held. */
  #ceilingBytes = Number.POSITIVE_INFINITY;
  #shippedAt = Number.NEGATIVE_INFINITY;

  /** `onHeld` is called for each that is to wait; `now`: milliseconds, of a clock that does not go back. */
  constructor(journal: Pick<Journal, 'bytes'>, onHeld: () => void = () => {}, now: () => number = () => performance.now()) {
    this.#journal = journal;
    this.#onHeld = onHeld;
    this.#now = now;
  }

  /** How many acknowledgements, or lots of them, are held. */
  get held(): number {
    return this.#held.length;
  }

  /** What to wait for before telemetry is acknowledged that is durable and brought so many octets; undefined for nothing. At most half a second. */
  wait(octets: number): Promise<void> | undefined {
    const now = this.#now();
    if (this.#journal.bytes <= this.#ceilingBytes || now - this.#shippedAt > STANDSTILL_MS) return undefined;
    this.#onHeld();
    return new Promise((release) => {
      this.#held.push({ octets, until: now + HOLD_MS_MAX, release });
      this.#timer ??= setTimeout(this.#releaseOverdue, HOLD_MS_MAX);
    });
  }

  /** History has taken so many octets, and the journal has forgotten them. Those held the longest go on, as many as bring no more than that if each brings the same again. */
  shipped(octets: number): void {
    this.#shippedAt = this.#now();
    const { bytes } = this.#journal;
    this.#ceilingBytes = Math.max(HELD_FROM_BYTES, bytes + octets * REFILL_FRACTION);
    let room = this.#ceilingBytes - bytes;
    let released = 0;
    for (const { octets: brought } of this.#held) {
      if (room <= 0) break;
      room -= brought;
      released += 1;
    }
    this.#release(released);
  }

  /** History is away: nothing is held until it takes rows again. */
  failed(): void {
    this.#ceilingBytes = Number.POSITIVE_INFINITY;
    this.#release(this.#held.length);
  }

  readonly #releaseOverdue = (): void => {
    this.#timer = undefined;
    const now = this.#now();
    const kept = this.#held.findIndex(({ until }) => until > now);
    this.#release(kept === -1 ? this.#held.length : kept);
    const oldest = this.#held[0];
    if (oldest !== undefined) this.#timer ??= setTimeout(this.#releaseOverdue, oldest.until - now);
  };

  #release(count: number): void {
    for (const { release } of this.#held.splice(0, count)) release();
    if (this.#held.length > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
