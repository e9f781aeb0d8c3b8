/** Counts durations in buckets 2 % apart, so that percentiles cost little and are never off by more than that. */
export class Histogram {
  readonly #buckets = new Uint32Array(BUCKETS);
  #count = 0;
  #maxMs = 0;

  add(ms: number): void {
    const bucket = Math.floor(Math.log(Math.max(ms, MS_MIN) / MS_MIN) / GROWTH_LOG);
    const index = Math.min(BUCKETS - 1, bucket);
    this.#buckets[index] = (this.#buckets[index] ?? 0) + 1;
    this.#count += 1;
    this.#maxMs = Math.max(this.#maxMs, ms);
  }

  get count(): number {
    return this.#count;
  }

  /** Milliseconds that the share `p` (0..1) of all durations does not exceed; undefined when there are none. */
  percentile(p: number): number | undefined {
    if (this.#count === 0) return undefined;
    let left = Math.max(1, Math.ceil(this.#count * p));
    for (let i = 0; i < BUCKETS; i += 1) {
      left -= this.#buckets[i] ?? 0;
      if (left <= 0) return Math.min(this.#maxMs, MS_MIN * Math.exp((i + 0.5) * GROWTH_LOG));
    }
    return this.#maxMs;
  }
}

const MS_MIN = 0.01;
const GROWTH_LOG = Math.log(1.02);
/** Up to three days. */
const BUCKETS = 1_220;
