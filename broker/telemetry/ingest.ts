import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { TS_AHEAD_SECONDS_DEFAULT, TS_BEHIND_SECONDS_DEFAULT, type Device } from '../../devices/device.ts';
import { readingsIn, type Sample } from '../../devices/telemetry.ts';
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

type Row = {
  readonly deviceId: string;
  readonly values: Sample['values'];
  readonly timeNs: string;
  readonly givenTs: number | undefined;
};
type Rows = { readonly rows: readonly Row[]; readonly lines: readonly string[]; readonly lastGivenMicros: number };

/** What becomes durable with the same promise. */
type Batch = { readonly durable: Promise<void>; readonly rows: Row[] };

export class Ingest {
  readonly #state: State;
  readonly #events: LiveEvents;
  readonly #latest: LatestValues;
  readonly #clock: Clock;
  readonly #mark: TimeMark;
  /** Last server-given time of each device, epoch microseconds. */
  readonly #lastMicros = new Map<string, number>();
  #batch: Batch | undefined;

  constructor(state: State, events: LiveEvents, latest: LatestValues, clock: Clock, mark: TimeMark) {
    this.#state = state;
    this.#events = events;
    this.#latest = latest;
    this.#clock = clock;
    this.#mark = mark;
  }

  /** Resolves with the number of readings taken, `changes` being made with them. Throws `journal_full` or `storage_unavailable`, and then nothing of it was taken. */
  take(device: Device, samples: readonly Sample[], changes: readonly Change[] = NO_CHANGES): Promise<number> {
    return this.#commit(this.#rowsOf(device, samples, 0), changes).then(() => readingsIn(samples));
  }

  /** `take` for the many: throws at once when there is no room, and gives one promise to all that is written together. */
  takeTogether(device: Device, samples: readonly Sample[]): Promise<void> {
    const rows = this.#rowsOf(device, samples, 0);
    this.#state.assertRoom(rows.lines);
    return this.#commit(rows, NO_CHANGES, 'relaxed');
  }

  /**
   * `take` in two steps, for what is committed together with something else: throws at once when there is no room, and gives the second step, to be
   * called in the same turn. `shiftMs` is what the device's clock is behind by: it is added to each `ts`, and the given one kept as `$givenTs`.
   */
  prepare(device: Device, samples: readonly Sample[], shiftMs: number): (changes: readonly Change[]) => Promise<number> {
    const rows = this.#rowsOf(device, samples, shiftMs);
    this.#state.assertRoom(rows.lines);
    return (changes) => (samples.length === 0 ? Promise.resolve(0) : this.#commit(rows, changes).then(() => readingsIn(samples)));
  }

  #rowsOf(device: Device, samples: readonly Sample[], shiftMs: number): Rows {
    const now = this.#clock.now();
    const { earliest, latest } = tsBoundsOf(device, now);
    let lastGivenMicros = 0;
    const rows: Row[] = [];
    const lines: string[] = [];
    for (const { ts, values } of samples) {
      const shifted = ts === undefined ? undefined : ts + shiftMs;
      const isInBounds = shifted !== undefined && shifted > 0 && shifted <= latest && shifted >= earliest;
      if (!isInBounds) lastGivenMicros = this.#nextMicros(device.id, now);
      const timeNs = isInBounds ? `${shifted}000000` : `${lastGivenMicros}000`;
      const givenTs = isInBounds && shiftMs === 0 ? undefined : ts;
      rows.push({ deviceId: device.id, values, timeNs, givenTs });
      lines.push(telemetryLine(device.id, values, timeNs, givenTs));
    }
    return { rows, lines, lastGivenMicros };
  }

  #commit(
    { rows, lines, lastGivenMicros }: Rows,
    changes: readonly Change[],
    bound: 'bounded' | 'relaxed' = 'bounded',
  ): Promise<void> {
    const mark = lastGivenMicros === 0 ? NO_CHANGES : this.#mark.changesFor(lastGivenMicros);
    const durable = this.#state.commit(mark.length === 0 ? changes : [...changes, ...mark], lines, bound);
    const batch = this.#batch?.durable === durable ? this.#batch : this.#begin(durable);
    for (const row of rows) batch.rows.push(row);
    return durable;
  }

  /** What becomes durable is known to be before anybody who waits for it goes on. */
  #begin(durable: Promise<void>): Batch {
    const batch: Batch = { durable, rows: [] };
    this.#batch = batch;
    durable.then(
      () => this.#taken(batch.rows),
      () => this.#mark.unsure(),
    );
    return batch;
  }

  forget(deviceId: string): void {
    this.#lastMicros.delete(deviceId);
  }

  #taken(rows: Row[]): void {
    for (const { deviceId, values, timeNs, givenTs } of rows) this.#latest.note(deviceId, values, timeNs, givenTs);
    this.#events.publishTelemetry(rows);
    // The batch is remembered until the next one begins.
    rows.length = 0;
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
