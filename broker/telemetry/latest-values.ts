import type { MetricValue, Sample } from '../../devices/telemetry.ts';
import type { History, Point } from '../store/history.ts';
import type { Shipper } from '../store/shipper.ts';

/**
 * The newest reading of each metric at hand in memory. What came in before this run of the server is fetched from History once a device,
 * when it is first asked for.
 */
type Newest = { timeNs: string; value: MetricValue; givenTs: number | undefined };
const CATCH_UP_MS_MAX = 2_000;

type Known = { readonly newest: Map<string, Newest>; isFetched: boolean };

export class LatestValues {
  readonly #history: History;
  readonly #shipper: Pick<Shipper, 'caughtUp'>;
  readonly #devices = new Map<string, Known>();

  constructor(history: History, shipper: Pick<Shipper, 'caughtUp'>) {
    this.#history = history;
    this.#shipper = shipper;
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

  /** True once all that came before this run was fetched: from then on what is in memory is the latest. */
  isComplete(deviceId: string): boolean {
    return this.#devices.get(deviceId)?.isFetched ?? false;
  }

  /** The latest reading of one metric that is in memory. */
  newest(deviceId: string, metric: string): Point | undefined {
    const newest = this.#devices.get(deviceId)?.newest.get(metric);
    return newest && pointOf(newest);
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
    const isCaughtUp = await this.#shipper.caughtUp(CATCH_UP_MS_MAX);
    try {
      for (const [metric, { timeNs, value, givenTs }] of await this.#history.latest(deviceId)) {
        this.note(deviceId, { [metric]: value }, timeNs.toString(), givenTs);
      }
      // What an earlier run took may still be in the journal alone.
      known.isFetched = isCaughtUp;
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
