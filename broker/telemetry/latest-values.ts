import type { MetricValue, Sample } from '../../devices/telemetry.ts';
import type { History, Point } from '../store/history.ts';

/**
 * The newest reading of each metric at hand in memory. What came in before this run of the server is fetched from History once a device,
 * when it is first asked for.
 */
type Newest = { timeNs: string; value: MetricValue; givenTs: number | undefined };
type Known = { readonly newest: Map<string, Newest>; isFetched: boolean };

export class LatestValues {
  readonly #history: History;
  readonly #devices = new Map<string, Known>();

  constructor(history: History) {
    this.#history = history;
  }

  /** `timeNs`: epoch nanoseconds as text. */
  note(deviceId: string, values: Sample['values'], timeNs: string, givenTs?: number): void {
    const { newest } = this.#known(deviceId);
    for (const metric in values) {
      const value = values[metric];
      if (value === undefined) continue;
      const had = newest.get(metric);
      if (had === undefined) {
        newest.set(metric, { timeNs, value, givenTs });
      } else if (!isLater(had.timeNs, timeNs)) {
        had.timeNs = timeNs;
        had.value = value;
        had.givenTs = givenTs;
      }
    }
  }

  /** True once what History had was fetched; the caller of `of` sees to it that History is caught up before. */
  isComplete(deviceId: string): boolean {
    return this.#devices.get(deviceId)?.isFetched ?? false;
  }

  /** By metric name. Throws `history_unavailable` when this run has seen none and History cannot be asked. */
  async of(deviceId: string): Promise<Map<string, Point>> {
    const known = this.#known(deviceId);
    if (!known.isFetched) {
      await this.#fetch(deviceId, known);
    }
    const byName = [...known.newest].toSorted(([a], [b]) => (a < b ? -1 : 1));
    return new Map(byName.map(([metric, newest]) => [metric, pointOf(newest)]));
  }

  async #fetch(deviceId: string, known: Known): Promise<void> {
    try {
      for (const [metric, { timeNs, value, givenTs }] of await this.#history.latest(deviceId)) {
        this.note(deviceId, { [metric]: value }, timeNs.toString(), givenTs);
      }
      known.isFetched = true;
    } catch (error) {
      // What this run has seen is told while History is away; it is asked again the next time.
      if (known.newest.size === 0) throw error;
    }
  }

  forget(deviceId: string): void {
    this.#devices.delete(deviceId);
  }

  #known(deviceId: string): Known {
    let known = this.#devices.get(deviceId);
    if (known === undefined) {
      known = { newest: new Map(), isFetched: false };
      this.#devices.set(deviceId, known);
    }
    return known;
  }
}

/** Of two times as text, neither negative nor with leading zeros. */
function isLater(a: string, b: string): boolean {
  return a.length === b.length ? a > b : a.length > b.length;
}

function pointOf({ timeNs, value, givenTs }: Newest): Point {
  return { timeNs: BigInt(timeNs), value, ...(givenTs !== undefined && { givenTs }) };
}
