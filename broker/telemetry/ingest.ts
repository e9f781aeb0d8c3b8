import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { TS_AHEAD_SECONDS_DEFAULT, TS_BEHIND_SECONDS_DEFAULT, type Device } from '../../devices/device.ts';
import type { Sample } from '../../devices/telemetry.ts';
import type { LiveEvents } from '../live-events.ts';
import { telemetryLine } from '../store/line-protocol.ts';
import type { State } from '../store/state.ts';
import type { LatestValues } from './latest-values.ts';

/**
 * Takes decoded telemetry to the journal: gives each sample its time and resolves once all of them are durable.
 *
 * A sample with its own `ts` keeps it, so sending it again is the same reading. One without gets the server's time, made unique per
 * device in steps of a microsecond. A `ts` out of the device's bounds is replaced likewise and kept beside the values as `$givenTs`.
 */
const MICROS_PER_MS = 1_000;

type Row = { readonly values: Sample['values']; readonly timeNs: string; readonly givenTs?: number };

export class Ingest {
  readonly #state: State;
  readonly #events: LiveEvents;
  readonly #latest: LatestValues;
  readonly #clock: Clock;
  /** Last server-given time of each device, epoch microseconds. */
  readonly #lastMicros = new Map<string, number>();
  #readings = 0;

  constructor(state: State, events: LiveEvents, latest: LatestValues, clock: Clock) {
    this.#state = state;
    this.#events = events;
    this.#latest = latest;
    this.#clock = clock;
  }

  /** Readings made durable since the start of this run. */
  get readings(): number {
    return this.#readings;
  }

  /** Resolves with the number of readings taken. Throws `journal_full` or `storage_unavailable`, and then nothing of it was taken. */
  take(device: Device, samples: readonly Sample[]): Promise<number> {
    const now = this.#clock.now();
    const aheadMs = (device.limits.tsAheadSeconds ?? TS_AHEAD_SECONDS_DEFAULT) * SECOND_MS;
    const behindMs = (device.limits.tsBehindSeconds ?? TS_BEHIND_SECONDS_DEFAULT) * SECOND_MS;
    const rows = samples.map((sample): Row => {
      const { ts, values } = sample;
      const isInBounds = ts !== undefined && ts > 0 && ts <= now + aheadMs && ts >= now - behindMs;
      const timeNs = isInBounds ? `${ts}000000` : `${this.#nextMicros(device.id, now)}000`;
      return ts === undefined || isInBounds ? { values, timeNs } : { values, timeNs, givenTs: ts };
    });
    const lines = rows.map((row) => telemetryLine(device.id, row.values, row.timeNs, row.givenTs));
    return this.#state.commit([], lines).then(() => this.#taken(device.id, rows));
  }

  forget(deviceId: string): void {
    this.#lastMicros.delete(deviceId);
  }

  #taken(deviceId: string, rows: readonly Row[]): number {
    let count = 0;
    for (const { values, timeNs, givenTs } of rows) {
      count += this.#latest.note(deviceId, values, timeNs, givenTs);
      this.#events.publish({ type: 'telemetry', deviceId, timeNs, values });
    }
    this.#readings += count;
    return count;
  }

  /** Never the same twice, also when the clock steps back. */
  #nextMicros(deviceId: string, now: number): number {
    const micros = Math.max(now * MICROS_PER_MS, (this.#lastMicros.get(deviceId) ?? 0) + 1);
    this.#lastMicros.set(deviceId, micros);
    return micros;
  }
}
