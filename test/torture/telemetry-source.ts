import type { Random } from '../../simulators/models/random.ts';
import type { Records, SentReading, Way } from './records.ts';

/** A device's readings: each value once, most with a time of the device's own, which no two share. */
const WITHOUT_TS_SHARE = 0.1;

export class TelemetrySource {
  readonly #records: Records;
  readonly #deviceId: string;
  readonly #random: Random;
  #n = 0;
  #lastTs = 0;

  constructor(records: Records, deviceId: string, random: Random) {
    this.#records = records;
    this.#deviceId = deviceId;
    this.#random = random;
  }

  next(way: Way): SentReading {
    this.#n += 1;
    const isTimed = !this.#random.chance(WITHOUT_TS_SHARE);
    if (isTimed) this.#lastTs = Math.max(Date.now(), this.#lastTs + 1);
    const reading: SentReading = {
      deviceId: this.#deviceId,
      way,
      n: this.#n,
      ...(isTimed && { ts: this.#lastTs }),
      tries: 0,
      isAcknowledged: false,
    };
    this.#records.readings.push(reading);
    return reading;
  }
}

/** Readings with the device's time are the metric `timed`, the others `untimed`. */
export function messageOf({ n, ts }: SentReading): object {
  return ts === undefined ? { untimed: n } : { ts, values: { timed: n } };
}
