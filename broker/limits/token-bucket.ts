/**
 * A rate with a reserve: so much a second on average, and ten seconds' worth at once for who was silent before. The clock is any that does not go
 * back, in milliseconds.
 */
export type Rate = { readonly perSecond: number };

export const BURST_SECONDS = 10;
const MS = 1_000;
/** Who waits as long as it was told is not to fail by the last bit. */
const ROUNDING = 1e-6;

export class TokenBucket {
  readonly #rate: Rate;
  #tokens: number;
  #filledAt: number;

  constructor(rate: Rate, now: number) {
    this.#rate = rate;
    this.#tokens = rate.perSecond * BURST_SECONDS;
    this.#filledAt = now;
  }

  /** Takes `count` and returns 0, or takes nothing and returns after how many milliseconds it will be there. */
  tryTake(count: number, now: number): number {
    this.#fill(now);
    // What is larger than the whole reserve is taken when that is full, and owed.
    const missing = Math.min(count, this.#rate.perSecond * BURST_SECONDS) - this.#tokens;
    if (missing > ROUNDING) return (missing / this.#rate.perSecond) * MS;
    this.#tokens -= count;
    return 0;
  }

  /** Takes `count` in any case, since it has come already. Returns after how many milliseconds it is made up for. */
  owe(count: number, now: number): number {
    this.#fill(now);
    this.#tokens -= count;
    return this.#tokens >= -ROUNDING ? 0 : (-this.#tokens / this.#rate.perSecond) * MS;
  }

  /** A full one is as good as a new one. */
  isFull(now: number): boolean {
    this.#fill(now);
    return this.#tokens >= this.#rate.perSecond * BURST_SECONDS - ROUNDING;
  }

  #fill(now: number): void {
    const { perSecond } = this.#rate;
    this.#tokens = Math.min(perSecond * BURST_SECONDS, this.#tokens + ((now - this.#filledAt) / MS) * perSecond);
    this.#filledAt = now;
  }
}
