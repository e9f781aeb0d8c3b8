import { hash } from 'node:crypto';
import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import type { Device } from '../../devices/device.ts';
import type { Sample } from '../../devices/telemetry.ts';
import { tsBoundsOf } from './ingest.ts';

/**
 * What the clocks of devices are behind by, for those that say what theirs shows and are beyond all bounds (1970 after a battery change, 2100).
 *
 * The same reading must get the same time when it is sent again, though the network took longer: a difference that is about the one known already is that
 * one, and so is that of the very same message sent again soon. What is known is kept in memory, of the devices that came last.
 */
type Known = { readonly sentAt: number; readonly shiftMs: number; readonly digest: string; readonly at: number };

const DEVICES_KEPT_MAX = 10_000;
/** Less than any device sleeps that loses its clock in its sleep: its next wake must not look like this one. */
const SAME_CLOCK_MS_MAX = 5 * SECOND_MS;
const REPEATED_WITHIN_MS = 60 * SECOND_MS;

export class DeviceClocks {
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Milliseconds to add to each `ts` of these samples, sent when the device's clock was at `sentAt`; 0 for a clock within the device's bounds. */
  shiftMsOf(device: Device, sentAt: number, samples: readonly Sample[]): number {
    const now = this.#clock.now();
    const { earliest, latest } = tsBoundsOf(device, now);
    const had = this.#known.get(device.id);
    this.#known.delete(device.id);
    if (sentAt >= earliest && sentAt <= latest) return 0;
    const digest = hash('sha256', JSON.stringify(samples));
    const isRepeated = had?.sentAt === sentAt && had.digest === digest && Math.abs(now - had.at) <= REPEATED_WITHIN_MS;
    const isSameClock = had !== undefined && Math.abs(now - sentAt - had.shiftMs) <= SAME_CLOCK_MS_MAX;
    const shiftMs = isRepeated || isSameClock ? had.shiftMs : now - sentAt;
    this.#known.set(device.id, { sentAt, shiftMs, digest, at: now });
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= DEVICES_KEPT_MAX) break;
      this.#known.delete(oldest);
    }
    return shiftMs;
  }
}
