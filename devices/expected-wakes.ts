import { DAY_MS, SECOND_MS } from './clock.ts';
import { GRACE_SECONDS_DEFAULT, type WakeSchedule } from './device.ts';
import { nextWakeAt, shortestSpacingMs } from './wake-schedule.ts';
import { hasSchedule, plannedWakeAt, slotMsOf, type Sleeper } from './wake-slot.ts';

/**
 * When a device is to be expected: at the wake it was promised, then as it would be told from there; by its plain schedule where it was
 * promised nothing or does not do as it is told. All times are epoch milliseconds.
 */
export type Habit = {
  readonly lastContactAt?: number | undefined;
  /** The wake that its last sleep hint named. */
  readonly promisedWakeAt?: number | undefined;
  /** On how many of its last wakes it came by its plain schedule, whatever the hint: 0 to OWN_WAKES_MAX. */
  readonly ownWakes?: number | undefined;
};

/** Steps towards an interval's steady phase that are followed one by one; after them it is as good as reached. */
const DRIFT_WAKES_MAX = 16;
const OWN_WAKES_MAX = 3;
/** From so many on it is expected by its schedule: one alone may have been a contact on another occasion. */
const OWN_WAKES_MIN = 2;
/** A plain wake and a promised one closer together than this cannot be told apart. */
const TELLING_MS_MIN = 2 * SECOND_MS;

/** The first wake to be expected after `after`; undefined when nothing is known. */
export function expectedWakeAt(device: Sleeper, habit: Habit, after: number): number | undefined {
  const { wake } = device;
  const promised = promiseOf(habit);
  if (promised !== undefined && promised > after) return promised;
  if (!hasSchedule(wake)) return undefined;
  if (promised === undefined) return nextWakeAt(wake, after, habit.lastContactAt);
  if ('cron' in wake) {
    const first = plannedWakeAt(device, promised);
    if (first === undefined || first > after) return first;
    const slotMs = slotMsOf(device);
    const plain = nextWakeAt(wake, after - slotMs, undefined);
    return plain === undefined ? undefined : plain + slotMs;
  }
  let at = promised;
  for (let i = 0; i < DRIFT_WAKES_MAX && at <= after; i += 1) at = plannedWakeAt(device, at) ?? at;
  if (at > after) return at;
  const everyMs = wake.everySeconds * SECOND_MS;
  return at + (Math.floor((after - at) / everyMs) + 1) * everyMs;
}

/** The expected wakes in (after, before), counted up to `max`. */
export function countExpectedWakes(device: Sleeper, habit: Habit, range: { after: number; before: number }, max: number): number {
  let count = 0;
  let at = expectedWakeAt(device, habit, range.after);
  while (count < max && at !== undefined && at < range.before) {
    count += 1;
    at = followingWakeAt(device, habit, at);
  }
  return count;
}

/** The n-th expected wake after `after` (n >= 1); undefined when nothing is known so far ahead. */
export function nthExpectedWakeAt(device: Sleeper, habit: Habit, n: number, after: number): number | undefined {
  let at = expectedWakeAt(device, habit, after);
  for (let i = 1; i < n && at !== undefined; i += 1) at = followingWakeAt(device, habit, at);
  return at;
}

/**
 * On how many wakes the device came by its plain schedule rather than as it was told, after the first contact of a wake at `now`; `had` is what was
 * known before it. A contact that may be either, or neither, says nothing.
 */
export function ownWakesAfter(device: Sleeper, had: Habit, now: number): number {
  const { lastContactAt, promisedWakeAt, ownWakes = 0 } = had;
  if (lastContactAt === undefined || promisedWakeAt === undefined || promisedWakeAt <= lastContactAt) return ownWakes;
  const plain = hasSchedule(device.wake) ? plainWakeNear(device.wake, lastContactAt, now) : undefined;
  if (plain === undefined || Math.abs(promisedWakeAt - plain) < TELLING_MS_MIN) return ownWakes;
  const fromPromise = Math.abs(now - promisedWakeAt);
  const fromPlain = Math.abs(now - plain);
  const graceMs = (device.graceSeconds ?? GRACE_SECONDS_DEFAULT) * SECOND_MS;
  if (Math.min(fromPromise, fromPlain) >= Math.min(Math.abs(promisedWakeAt - plain) / 4, graceMs)) return ownWakes;
  return fromPlain < fromPromise ? Math.min(ownWakes + 1, OWN_WAKES_MAX) : Math.max(ownWakes - 1, 0);
}

/** The promise, while it is worth anything: a contact after it has used it up. */
function promiseOf({ promisedWakeAt, lastContactAt, ownWakes = 0 }: Habit): number | undefined {
  if (promisedWakeAt === undefined || ownWakes >= OWN_WAKES_MIN) return undefined;
  return lastContactAt !== undefined && promisedWakeAt <= lastContactAt ? undefined : promisedWakeAt;
}

function followingWakeAt(device: Sleeper, habit: Habit, at: number): number | undefined {
  if (promiseOf(habit) !== undefined) return plannedWakeAt(device, at);
  return device.wake && nextWakeAt(device.wake, at, habit.lastContactAt);
}

/** The wake by the plain schedule that lies next to `now`. */
function plainWakeNear(wake: WakeSchedule, lastContactAt: number, now: number): number | undefined {
  const spacingMs = shortestSpacingMs(wake);
  if ('cron' in wake) return nextWakeAt(wake, now - Math.min(spacingMs, DAY_MS) / 2, undefined);
  return lastContactAt + Math.max(1, Math.round((now - lastContactAt) / spacingMs)) * spacingMs;
}
