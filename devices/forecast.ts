import type { Device } from './device.ts';
import { countWakes, nextWakeAt } from './wake-schedule.ts';
import type { Command } from './command.ts';

/** When a queued command will reach its device, as far as can be told. Times are epoch milliseconds. */
export type Forecast = {
  /** The device's next scheduled wake; absent without a schedule. */
  readonly nextWakeAt?: number;
  /** When the command should be handed over; absent when nothing is known (no schedule, not connected). */
  readonly expectedAt?: number;
  /** Scheduled wakes left before it expires, at most 100; absent without a schedule or an expiry. */
  readonly wakesBeforeExpiry?: number;
};

const WAKES_COUNTED_MAX = 100;

/** `reachable`: the device is connected or waiting right now; `lastContactAt`: when it was last heard of. */
export function forecast(
  command: Command,
  device: Pick<Device, 'wake'>,
  contact: { reachable: boolean; lastContactAt?: number | undefined },
  now: number,
): Forecast {
  const from = Math.max(now, command.notBefore ?? now);
  const { wake } = device;
  const wakeAt = wake && nextWakeAt(wake, now, contact.lastContactAt);
  const expectedAt = contact.reachable ? from : wake && nextWakeAt(wake, from, contact.lastContactAt);
  const wakesBeforeExpiry =
    wake && command.expiresAt !== undefined
      ? countWakes(wake, from, command.expiresAt, contact.lastContactAt, WAKES_COUNTED_MAX)
      : undefined;
  return {
    ...(wakeAt !== undefined && { nextWakeAt: wakeAt }),
    ...(expectedAt !== undefined && { expectedAt }),
    ...(wakesBeforeExpiry !== undefined && { wakesBeforeExpiry }),
  };
}
