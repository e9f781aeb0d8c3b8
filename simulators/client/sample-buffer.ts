import { MESSAGE_BYTES_MAX, READINGS_MAX, type Sample } from '../../devices/telemetry.ts';
import type { Delivery } from './device-client.ts';

/** Samples between two wakes, handed out in messages the server takes. When it is full the oldest is dropped. */
export class SampleBuffer {
  readonly #waiting: Entry[] = [];

  /** Resolves with what became of it; never rejects. */
  add(sample: Sample): Promise<Delivery> {
    if (this.#waiting.length >= SAMPLES_MAX) this.#waiting.shift()?.settle('dropped');
    return new Promise((settle) => this.#waiting.push({ sample, bytes: Buffer.byteLength(JSON.stringify(sample)), settle }));
  }

  get size(): number {
    return this.#waiting.length;
  }

  /** The oldest samples that fit one message; undefined when there are none. Put back or settled by the caller. */
  take(): { samples: Sample[]; settle: (delivery: Delivery) => void; putBack: () => void } | undefined {
    let count = 0;
    let readings = 0;
    let bytes = 2;
    for (const entry of this.#waiting) {
      readings += Object.keys(entry.sample.values).length;
      bytes += entry.bytes + 1;
      if (count > 0 && (readings > READINGS_MAX || bytes > MESSAGE_BYTES_MAX)) break;
      count += 1;
    }
    if (count === 0) return undefined;
    const entries = this.#waiting.splice(0, count);
    return {
      samples: entries.map(({ sample }) => sample),
      settle: (delivery) => entries.forEach(({ settle }) => settle(delivery)),
      putBack: () => this.#waiting.unshift(...entries),
    };
  }

  /** Gives up all that is left. */
  close(): void {
    for (const { settle } of this.#waiting.splice(0)) settle('dropped');
  }
}

type Entry = { readonly sample: Sample; readonly bytes: number; readonly settle: (delivery: Delivery) => void };

const SAMPLES_MAX = 10_000;
