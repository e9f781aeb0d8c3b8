import { SECOND_MS } from './clock.ts';
import { GRACE_SECONDS_DEFAULT, type Device, type Wake, type WakeSchedule } from './device.ts';
import { nextWakeAt, shortestSpacingMs } from './wake-schedule.ts';

/**
 * Where in its slack a device wakes. Devices with one schedule would all come in one second; each has a slot of its own instead, which
 * follows from its id and so stays the same. All times are epoch milliseconds.
 *
 *   cron      the time that the schedule names, and the slot after it
 *   interval  one interval after the contact, drawn towards the device's own phase of the interval: by at most the slack a wake, in
 *             proportion to the way left, so that devices which booted together part at once and stay apart, evenly at each wake
 */
export type Sleeper = Pick<Device, 'id' | 'wake' | 'graceSeconds'>;

/** Of the time between wakes, where the device has no `slackSeconds`. */
const SLACK_FRACTION_DEFAULT = 0.1;
/** Of the grace: half of it is left for the device's own lateness. */
const SLACK_GRACE_FRACTION = 0.5;
/** Consecutive numbers times this fall evenly into [0, 1), however many (the golden ratio's additive recurrence). */
const GOLDEN = 0.618_033_988_749_894_9;
const NUMBER_DIGITS_MAX = 8;
const DITHER_PRIME = 7_919;

export function hasSchedule(wake: Wake | undefined): wake is WakeSchedule {
  return wake !== undefined && ('cron' in wake || 'everySeconds' in wake);
}

/** The wake that a device is told after a contact at `at`; undefined without a schedule, or when it names no further time. */
export function plannedWakeAt(device: Sleeper, at: number): number | undefined {
  const { wake } = device;
  if (!hasSchedule(wake)) return undefined;
  if ('cron' in wake) {
    const next = nextWakeAt(wake, at, undefined);
    return next === undefined ? undefined : next + slotMsOf(device);
  }
  const { everySeconds, minSeconds = 0, maxSeconds = Number.POSITIVE_INFINITY } = wake;
  const slackMs = slackMsOf(device, wake);
  if (slackMs === 0) return at + everySeconds * SECOND_MS;
  const everyMs = everySeconds * SECOND_MS;
  const slot = slotOf(device.id);
  let away = (slot * everyMs - at) % everyMs;
  if (away < 0) away += everyMs;
  if (away > everyMs / 2) away -= everyMs;
  const drawnSeconds = everySeconds + (away * slackMs) / (everyMs / 2) / SECOND_MS;
  const seconds = Math.floor(drawnSeconds + ditherOf(slot, at));
  return at + Math.min(Math.max(seconds, minSeconds), maxSeconds) * SECOND_MS;
}

/** Decides how seconds are rounded, for each device and time differently: rounded alike, devices would gather on some seconds. */
function ditherOf(slot: number, at: number): number {
  return (slot * DITHER_PRIME + Math.floor(at / SECOND_MS) * GOLDEN) % 1;
}

/** How long after the time that its cron schedule names a device is told to come; 0 for an interval. */
export function slotMsOf(device: Sleeper): number {
  const { wake } = device;
  return wake !== undefined && 'cron' in wake ? Math.floor(slotOf(device.id) * slackMsOf(device, wake)) : 0;
}

function slackMsOf({ graceSeconds }: Sleeper, wake: WakeSchedule): number {
  const spacingMs = shortestSpacingMs(wake);
  if (wake.slackSeconds !== undefined) return Math.min(wake.slackSeconds * SECOND_MS, spacingMs / 2);
  const ofSpacingMs = spacingMs * SLACK_FRACTION_DEFAULT;
  if (!('cron' in wake)) return ofSpacingMs;
  return Math.min(ofSpacingMs, (graceSeconds ?? GRACE_SECONDS_DEFAULT) * SECOND_MS * SLACK_GRACE_FRACTION);
}

/** The device's steady place in [0, 1). Numbered ids (`meter-0001`, `meter-0002`, …) are dealt out evenly, others at random. */
export function slotOf(deviceId: string): number {
  let end = deviceId.length;
  let number = 0;
  let weight = 1;
  while (end > 0 && deviceId.length - end < NUMBER_DIGITS_MAX) {
    const digit = deviceId.charCodeAt(end - 1) - 48;
    if (digit < 0 || digit > 9) break;
    number += digit * weight;
    weight *= 10;
    end -= 1;
  }
  return (hashOf(deviceId, end) / 2 ** 32 + number * GOLDEN) % 1;
}

/** FNV-1a of the first `length` characters, stirred as MurmurHash3 ends, to 32 bits. */
function hashOf(text: string, length: number): number {
  let hash = 0x81_1c_9d_c5;
  for (let i = 0; i < length; i += 1) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01_00_01_93);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85_eb_ca_6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2_b2_ae_35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
