import type { Sample } from '../../devices/telemetry.ts';
import type { History, Point } from '../store/history.ts';

/**
 * The newest reading of each metric at hand in memory. What came in before this run of the server is fetched from History once a device,
 * when it is first asked for.
 */
type Known = { readonly points: Map<string, Point>; fetched: boolean };

export class LatestValues {
  readonly #history: History;
  readonly #devices = new Map<string, Known>();

  constructor(history: History) {
    this.#history = history;
  }

  note(deviceId: string, values: Sample['values'], timeNs: bigint, givenTs?: number): void {
    const { points } = this.#known(deviceId);
    for (const metric in values) {
      const value = values[metric];
      const had = points.get(metric);
      if (value === undefined || (had !== undefined && had.timeNs > timeNs)) continue;
      points.set(metric, givenTs === undefined ? { timeNs, value } : { timeNs, value, givenTs });
    }
  }

  /** True once what History had was fetched; the caller of `of` sees to it that History is caught up before. */
  isComplete(deviceId: string): boolean {
    return this.#devices.get(deviceId)?.fetched ?? false;
  }

  /** By metric name. Throws `history_unavailable` when earlier readings are needed and cannot be had. */
  async of(deviceId: string): Promise<Map<string, Point>> {
    const known = this.#known(deviceId);
    if (!known.fetched) {
      for (const [metric, point] of await this.#history.latest(deviceId)) {
        const had = known.points.get(metric);
        if (had === undefined || had.timeNs < point.timeNs) known.points.set(metric, point);
      }
      known.fetched = true;
    }
    return new Map([...known.points].toSorted(([a], [b]) => (a < b ? -1 : 1)));
  }

  forget(deviceId: string): void {
    this.#devices.delete(deviceId);
  }

  #known(deviceId: string): Known {
    let known = this.#devices.get(deviceId);
    if (known === undefined) {
      known = { points: new Map(), fetched: false };
      this.#devices.set(deviceId, known);
    }
    return known;
  }
}
