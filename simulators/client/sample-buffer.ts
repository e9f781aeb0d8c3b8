import { MESSAGE_BYTES_MAX, READINGS_MAX, type Sample } from '../../devices/telemetry.ts';
import type { Delivery, SampleBufferOptions } from './device-client.ts';

/** Samples on their way to the server, by whichever link comes first, handed out in messages that it takes. Kept in memory, within a bound. */
export class SampleBuffer {
  readonly #waiting: Entry[] = [];
  readonly #samplesMax: number;
  readonly #bytesMax: number;
  readonly #dropsNewest: boolean;
  #bytes = 0;
  #underWay = 0;

  constructor(options: SampleBufferOptions = {}) {
    this.#samplesMax = options.samplesMax ?? SAMPLES_MAX_DEFAULT;
    this.#bytesMax = options.bytesMax ?? BYTES_MAX_DEFAULT;
    this.#dropsNewest = options.whenFull === 'drop-newest';
  }

  /** Resolves with what became of it; never rejects. */
  add(sample: Sample): Promise<Delivery> {
    const bytes = Buffer.byteLength(JSON.stringify(sample));
    // No message could carry it, and over MQTT it would cost the connection.
    if (bytes + 2 > MESSAGE_BYTES_MAX) return Promise.resolve('refused');
    return new Promise((settle) => {
      this.#push('push', [{ sample, bytes, settle, togetherMax: READINGS_MAX, failures: 0 }]);
      this.#dropWhatIsTooMuch();
    });
  }

  /** Samples waiting and under way. */
  get size(): number {
    return this.#waiting.length + this.#underWay;
  }

  get isWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** The oldest samples that fit one message, `samplesMax` at most; the caller settles them or puts them back. Undefined when there are none. */
  take(samplesMax = READINGS_MAX): SampleParcel | undefined {
    const countMax = Math.min(samplesMax, this.#waiting[0]?.togetherMax ?? 0);
    let count = 0;
    let readings = 0;
    let bytes = 2;
    while (count < countMax) {
      const entry = this.#waiting[count];
      if (entry === undefined) break;
      readings += Object.keys(entry.sample.values).length;
      bytes += entry.bytes + 1;
      if (count > 0 && (readings > READINGS_MAX || bytes > MESSAGE_BYTES_MAX)) break;
      count += 1;
    }
    if (count === 0) return undefined;
    const entries = this.#waiting.splice(0, count);
    for (const entry of entries) this.#bytes -= entry.bytes;
    this.#underWay += count;
    return this.#parcel(entries);
  }

  /** Gives up all that is left. */
  close(): void {
    this.#bytes = 0;
    for (const { settle } of this.#waiting.splice(0)) settle('dropped');
  }

  #parcel(entries: readonly Entry[]): SampleParcel {
    let isOpen = true;
    const finish = (): boolean => {
      if (!isOpen) return false;
      isOpen = false;
      this.#underWay -= entries.length;
      return true;
    };
    const settle = (delivery: Delivery) => {
      if (finish()) for (const entry of entries) entry.settle(delivery);
    };
    const putBack = () => {
      if (!finish()) return;
      this.#push('unshift', entries);
      this.#dropWhatIsTooMuch();
    };
    return {
      samples: entries.map(({ sample }) => sample),
      settle,
      putBack,
      refused: () => {
        if (entries.length === 1) return settle('refused');
        for (const entry of entries) entry.togetherMax = Math.ceil(entries.length / 2);
        putBack();
      },
      blame: () => {
        for (const entry of entries) entry.failures += 1;
        if (entries.some(({ failures }) => failures >= FAILURES_MAX)) settle('dropped');
        else putBack();
      },
    };
  }

  #push(where: 'push' | 'unshift', entries: readonly Entry[]): void {
    for (const { bytes } of entries) this.#bytes += bytes;
    this.#waiting[where](...entries);
  }

  #dropWhatIsTooMuch(): void {
    while (this.#waiting.length > this.#samplesMax || this.#bytes > this.#bytesMax) {
      const dropped = this.#dropsNewest ? this.#waiting.pop() : this.#waiting.shift();
      if (dropped === undefined) return;
      this.#bytes -= dropped.bytes;
      dropped.settle('dropped');
    }
  }
}

/** Samples in the hands of a link. Settled or put back once; what comes after that changes nothing. */
export type SampleParcel = {
  readonly samples: readonly Sample[];
  readonly settle: (delivery: Delivery) => void;
  readonly putBack: () => void;
  /** The server would not take the message: smaller ones are tried, until the sample at fault is alone in one and refused. */
  readonly refused: () => void;
  /** A connection ended with these unacknowledged for the longest time: given up after 20 of them, since it may be their fault. */
  readonly blame: () => void;
};

type Entry = {
  readonly sample: Sample;
  readonly bytes: number;
  readonly settle: (delivery: Delivery) => void;
  /** Samples that may be in one message with it. */
  togetherMax: number;
  failures: number;
};

const SAMPLES_MAX_DEFAULT = 10_000;
const BYTES_MAX_DEFAULT = 16 * 1024 * 1024;
const FAILURES_MAX = 20;
