import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { TS_AHEAD_SECONDS_DEFAULT, TS_BEHIND_SECONDS_DEFAULT, type Device } from '../../devices/device.ts';
import type { Sample } from '../../devices/telemetry.ts';
import type { LiveEvents } from '../live-events.ts';
import { telemetryLine } from '../store/line-protocol.ts';
import type { Change, State } from '../store/state.ts';
import type { TimeMark } from '../time-mark.ts';
import type { LatestValues } from './latest-values.ts';

/**
 * Takes decoded telemetry to the journal: gives each sample its time and resolves once all of them are durable.
 *
 * A sample with its own `ts` keeps it, so sending it again is the same reading. One without gets the server's time, made unique per
 * device in steps of a microsecond. A `ts` out of the device's bounds is replaced likewise and kept beside the values as `$givenTs`.
 */
const MICROS_PER_MS = 1_000;
const NO_CHANGES: readonly Change[] = [];

type Row = { readonly values: Sample['values']; readonly timeNs: string; readonly givenTs?: number };
type Rows = { readonly rows: readonly Row[]; readonly lines: readonly string[]; readonly lastGivenMicros: number };

export class Ingest {
  readonly #state: State;
  readonly #events: LiveEvents;
  readonly #latest: LatestValues;
  readonly #clock: Clock;
  readonly #mark: TimeMark;
  /** Last server-given time of each device, epoch microseconds. */
  readonly #lastMicros = new Map<string, number>();

  constructor(state: State, events: LiveEvents, latest: LatestValues, clock: Clock, mark: TimeMark) {
    this.#state = state;
    this.#events = events;
    this.#latest = latest;
    this.#clock = clock;
    this.#mark = mark;
  }

  /** Resolves with the number of readings taken, `changes` being made with them. Throws `journal_full` or `storage_unavailable`, and then nothing of it was taken. */
  take(device: Device, samples: readonly Sample[], changes: readonly Change[] = NO_CHANGES): Promise<number> {
    return this.#commit(device.id, this.#rowsOf(device, samples, 0), changes);
  }

  /**
   * `take` in two steps, for what is committed together with something else: throws at once when there is no room, and gives the second step, to be
   * called in the same turn. `shiftMs` is what the device's clock is behind by: it is added to each `ts`, and the given one kept as `$givenTs`.
   */
  prepare(device: Device, samples: readonly Sample[], shiftMs: number): () => Promise<number> {
    const rows = this.#rowsOf(device, samples, shiftMs);
    this.#state.assertRoom(rows.lines);
    return () => (samples.length === 0 ? Promise.resolve(0) : this.#commit(device.id, rows, NO_CHANGES));
  }

  #rowsOf(device: Device, samples: readonly Sample[], shiftMs: number): Rows {
    const now = this.#clock.now();
    const { earliest, latest } = tsBoundsOf(device, now);
    let lastGivenMicros = 0;
    const rows = samples.map(({ ts: givenTs, values }): Row => {
      const ts = givenTs === undefined ? undefined : givenTs + shiftMs;
      const isInBounds = ts !== undefined && ts > 0 && ts <= latest && ts >= earliest;
      if (!isInBounds) lastGivenMicros = this.#nextMicros(device.id, now);
      const timeNs = isInBounds ? `${ts}000000` : `${lastGivenMicros}000`;
      return givenTs === undefined || (isInBounds && shiftMs === 0) ? { values, timeNs } : { values, timeNs, givenTs };
    });
    const lines = rows.map((row) => telemetryLine(device.id, row.values, row.timeNs, row.givenTs));
    return { rows, lines, lastGivenMicros };
  }

  #commit(deviceId: string, { rows, lines, lastGivenMicros }: Rows, changes: readonly Change[]): Promise<number> {
    const mark = lastGivenMicros === 0 ? NO_CHANGES : this.#mark.changesFor(lastGivenMicros);
    return this.#state.commit(mark.length === 0 ? changes : [...changes, ...mark], lines).then(
      () => this.#taken(deviceId, rows),
      (error: unknown) => {
        this.#mark.unsure();
        throw error;
      },
    );
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
    return count;
  }

  /** Never the same twice, also when the clock steps back, and across a restart. */
  #nextMicros(deviceId: string, now: number): number {
    const micros = Math.max(now * MICROS_PER_MS, (this.#lastMicros.get(deviceId) ?? this.#mark.floorMicros) + 1);
    this.#lastMicros.set(deviceId, micros);
    return micros;
  }
}

/** Between which times, epoch milliseconds, a device's own clock is believed. */
export function tsBoundsOf({ limits }: Device, now: number): { readonly earliest: number; readonly latest: number } {
  return {
    earliest: now - (limits.tsBehindSeconds ?? TS_BEHIND_SECONDS_DEFAULT) * SECOND_MS,
    latest: now + (limits.tsAheadSeconds ?? TS_AHEAD_SECONDS_DEFAULT) * SECOND_MS,
  };
}
