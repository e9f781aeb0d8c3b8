import { MINUTE_MS } from '../../devices/clock.ts';
import { TokenBucket, type Rate } from './token-bucket.ts';

/**
 * The rate of each of many (devices, keys, addresses), made when it first comes. Those that are full again are let go of, since a new one would be no
 * different; the oldest go first where there would be too many.
 */
const KEPT_MAX = 1_000_000;
const SWEEP_EVERY_MS = MINUTE_MS;

export class Rates {
  readonly #rate: Rate;
  readonly #now: () => number;
  readonly #keptMax: number;
  readonly #buckets = new Map<string, TokenBucket>();
  #timer: NodeJS.Timeout | undefined;

  /** `now`: milliseconds by a clock that does not go back. */
  constructor(rate: Rate, now: () => number, keptMax: number = KEPT_MAX) {
    this.#rate = rate;
    this.#now = now;
    this.#keptMax = keptMax;
  }

  get size(): number {
    return this.#buckets.size;
  }

  /** 0 when it is within the rate and counted; else after how many milliseconds it would be. */
  tryTake(id: string, count = 1): number {
    return this.#bucketOf(id).tryTake(count, this.#now());
  }

  /** Counts what has come already: how many milliseconds nothing more should come. */
  owe(id: string, count: number): number {
    return this.#bucketOf(id).owe(count, this.#now());
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #bucketOf(id: string): TokenBucket {
    const known = this.#buckets.get(id);
    if (known !== undefined) return known;
    if (this.#buckets.size >= this.#keptMax) {
      const [oldest] = this.#buckets.keys();
      if (oldest !== undefined) this.#buckets.delete(oldest);
    }
    const bucket = new TokenBucket(this.#rate, this.#now());
    this.#buckets.set(id, bucket);
    this.#timer ??= setTimeout(() => this.#sweep(), SWEEP_EVERY_MS).unref();
    return bucket;
  }

  #sweep(): void {
    const now = this.#now();
    for (const [id, bucket] of this.#buckets) if (bucket.isFull(now)) this.#buckets.delete(id);
    this.#timer = this.#buckets.size === 0 ? undefined : setTimeout(() => this.#sweep(), SWEEP_EVERY_MS).unref();
  }
}
