import type { MetricValue } from '../../../devices/telemetry.ts';
import type { Aggregate, WindowPoint, WindowsQuery } from '../history.ts';
import { valueOf } from '../line-parser.ts';
import type { StoredPoint } from './point-chunks.ts';
import { sortableTime, timeOfSortable } from './sortable-time.ts';

/** Aggregates readings as they pass, oldest first, so that any number of them takes no memory. */
export async function tallyWindows(
  pages: AsyncIterable<Iterable<StoredPoint>>,
  query: Pick<WindowsQuery, 'fromNs' | 'toNs' | 'windowMs' | 'aggregates' | 'limit'>,
): Promise<WindowPoint[]> {
  const windowNs = query.windowMs === undefined ? undefined : BigInt(query.windowMs) * 1_000_000n;
  const points: WindowPoint[] = [];
  let tally: WindowTally | undefined;
  let windowEnd = '';
  for await (const page of pages) {
    for (const [time, value] of page) {
      if (tally === undefined || time >= windowEnd) {
        if (tally !== undefined) points.push(tally.point(query.aggregates));
        if (points.length === query.limit) return points;
        const start = windowNs === undefined ? query.fromNs : windowStart(timeOfSortable(time), windowNs);
        tally = new WindowTally(start);
        windowEnd = sortableTime(windowNs === undefined ? query.toNs : start + windowNs);
      }
      tally.add(valueOf(value));
    }
  }
  if (tally !== undefined) points.push(tally.point(query.aggregates));
  return points;
}

/** Numbers are summed with Neumaier's compensation. */
class WindowTally {
  readonly timeNs: bigint;
  #count = 0;
  #numbers = 0;
  #sum = 0;
  #lost = 0;
  #min = Number.POSITIVE_INFINITY;
  #max = Number.NEGATIVE_INFINITY;
  #last: MetricValue | null = null;

  constructor(timeNs: bigint) {
    this.timeNs = timeNs;
  }

  /** Values come in the order of their times. */
  add(value: MetricValue): void {
    this.#count += 1;
    this.#last = value;
    if (typeof value !== 'number') return;
    this.#numbers += 1;
    if (value < this.#min) this.#min = value;
    if (value > this.#max) this.#max = value;
    const sum = this.#sum + value;
    this.#lost += Math.abs(this.#sum) >= Math.abs(value) ? this.#sum - sum + value : value - sum + this.#sum;
    this.#sum = sum;
  }

  point(aggregates: readonly Aggregate[]): WindowPoint {
    const values = aggregates.map((aggregate) => [aggregate, this.#valueOf(aggregate)] as const);
    return { timeNs: this.timeNs, ...Object.fromEntries(values) };
  }

  #valueOf(aggregate: Aggregate): MetricValue | null {
    switch (aggregate) {
      case 'count':
        return this.#count;
      case 'last':
        return this.#last;
      case 'mean':
        return finite((this.#sum + this.#lost) / this.#numbers);
      case 'min':
        return finite(this.#min);
      case 'max':
        return finite(this.#max);
    }
  }
}

function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}

/** The window that holds `timeNs`: windows start at multiples of `windowNs` since the epoch, before it as well. */
function windowStart(timeNs: bigint, windowNs: bigint): bigint {
  const past = timeNs % windowNs;
  return timeNs - (past < 0n ? past + windowNs : past);
}
