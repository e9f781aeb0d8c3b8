import type { Command } from './command.ts';
import { countExpectedWakes, expectedWakeAt, type Habit } from './expected-wakes.ts';
import { hasSchedule, type Sleeper } from './wake-slot.ts';

/** When a command will reach its device, as far as can be told; of one that has reached it, when the device comes next. Times are epoch milliseconds. */
export type Forecast = {
  /** When the device is expected next; absent when it has no schedule and was told no time. */
  readonly nextWakeAt?: number;
  /**
   * When the command should be handed over; of one that is handed over already and not confirmed, when that is done again. Absent when nothing
   * is known (no schedule, not connected).
   */
  readonly expectedAt?: number;
  /** Wakes left before it expires, at most 100: by number, and those expected by time; absent where neither is known. */
  readonly wakesBeforeExpiry?: number;
};

const WAKES_COUNTED_MAX = 100;

/** `reachable`: the device is connected or waiting right now. */
export function forecast(command: Command, device: Sleeper, contact: Habit & { reachable: boolean }, now: number): Forecast {
  const nextWakeAt = expectedWakeAt(device, contact, now);
  if (command.state === 'delivered' || command.state === 'running') return nextWakeAt === undefined ? {} : { nextWakeAt };
  const isHandedOver = command.state === 'sent' && !contact.reachable;
  const from = Math.max(now, command.notBefore ?? now, isHandedOver ? (command.leaseUntil ?? now) : now);
  const expectedAt = contact.reachable ? from : handOverAt(device, contact, from, nextWakeAt);
  const wakesByTime =
    hasSchedule(device.wake) && command.expiresAt !== undefined
      ? countExpectedWakes(device, contact, { after: from, before: command.expiresAt }, WAKES_COUNTED_MAX)
      : WAKES_COUNTED_MAX;
  const wakesByNumber = command.expiresWakes === undefined ? WAKES_COUNTED_MAX : command.expiresWakes - command.wakes;
  const isCounted = command.expiresWakes !== undefined || (hasSchedule(device.wake) && command.expiresAt !== undefined);
  const wakesBeforeExpiry = isCounted ? Math.max(0, Math.min(wakesByTime, wakesByNumber)) : undefined;
  return {
    ...(nextWakeAt !== undefined && { nextWakeAt }),
    ...(expectedAt !== undefined && { expectedAt }),
    ...(wakesBeforeExpiry !== undefined && { wakesBeforeExpiry }),
  };
}

/** A device that has no schedule is told to come when its command is due; one that has is met on its next wake after that. */
function handOverAt(device: Sleeper, contact: Habit, from: number, nextWakeAt: number | undefined): number | undefined {
  if (hasSchedule(device.wake)) return expectedWakeAt(device, contact, from);
  return nextWakeAt === undefined ? undefined : Math.max(from, nextWakeAt);
}
