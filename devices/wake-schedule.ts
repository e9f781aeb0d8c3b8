import { Cron } from 'croner';
import { SECOND_MS } from './clock.ts';
import { DownlinkError } from './downlink-error.ts';
import type { Wake, WakeSchedule } from './device.ts';

/**
 * When a sleepy device wakes. A cron schedule names wall-clock times in its zone; an interval counts from the last contact.
 * All times are epoch milliseconds.
 */

/** All times in [from, wakeAt) have `wakeAt` as their next wake. */
type Stretch = { from: number; readonly wakeAt: number };

/** A parsed expression and what it answered, in order: many devices share a schedule and ask about the same stretches, and cron is slow. */
type Parsed = { readonly cron: Cron; readonly stretches: Stretch[]; spacingMs?: number };

const PARSED_MAX = 10_000;
const STRETCHES_MAX = 100_000;
const parsed = new Map<string, Parsed>();
/** The same by the schedule itself: a device's is one object for as long as it does not change. */
let parsedOf = new WeakMap<object, Parsed>();
let stretchesKept = 0;

/** Where the spacing of a cron schedule is looked at, and over how many wakes: always the same, so that slots stay. */
const SPACING_FROM = Date.UTC(2026, 0, 1);
const SPACING_WAKES = 16;

/**
 * Throws `invalid_request` when the expression or the zone is not one, names no time that ever comes, or the bounds and the slack do not fit
 * the schedule or each other.
 */
export function assertWakeSchedule(wake: Wake, now: number): void {
  const { minSeconds, maxSeconds } = wake;
  if (minSeconds !== undefined && maxSeconds !== undefined && minSeconds > maxSeconds) {
    throw refusal('wake.minSeconds', `is ${minSeconds}, more than wake.maxSeconds, ${maxSeconds}`);
  }
  if ('cron' in wake) {
    assertCron(wake, now);
  } else if ('everySeconds' in wake) {
    const { everySeconds } = wake;
    if (minSeconds !== undefined && minSeconds > everySeconds) {
      throw refusal('wake.minSeconds', `is ${minSeconds}, more than wake.everySeconds, ${everySeconds}`);
    }
    if (maxSeconds !== undefined && maxSeconds < everySeconds) {
      throw refusal('wake.maxSeconds', `is ${maxSeconds}, less than wake.everySeconds, ${everySeconds}`);
    }
  } else {
    return;
  }
  const spacingSeconds = shortestSpacingMs(wake) / SECOND_MS;
  if (wake.slackSeconds !== undefined && wake.slackSeconds > spacingSeconds / 2) {
    throw refusal('wake.slackSeconds', `is ${wake.slackSeconds}, more than half of the ${spacingSeconds} s between two wakes`);
  }
}

function assertCron(wake: { cron: string; timezone?: string }, now: number): void {
  if (wake.timezone !== undefined && !isTimeZone(wake.timezone)) {
    throw refusal('wake.timezone', 'is no time zone: one such as Europe/Berlin, or UTC');
  }
  let next: Date | null;
  try {
    next = parse(wake).cron.nextRun(new Date(now));
  } catch (error) {
    const fault = (error as Error).message.replace(/^Cron\w+: /, '');
    throw refusal('wake.cron', `is no schedule such as */15 * * * *: ${fault}`);
  }
  if (next === null) throw refusal('wake.cron', 'names no time that ever comes');
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

function refusal(at: string, fault: string): DownlinkError {
  return new DownlinkError('invalid_request', `${at} ${fault}`, { at });
}

/** The shortest time between two wakes, milliseconds; of a cron schedule as far as it is looked at. */
export function shortestSpacingMs(schedule: WakeSchedule): number {
  if (!('cron' in schedule)) return schedule.everySeconds * SECOND_MS;
  const known = parse(schedule);
  known.spacingMs ??= spacingOf(known.cron);
  return known.spacingMs;
}

function spacingOf(cron: Cron): number {
  const times = cron.nextRuns(SPACING_WAKES, new Date(SPACING_FROM)).map((time) => time.getTime());
  return times.reduce(
    (shortest, time, i) => Math.min(shortest, time - (times[i - 1] ?? Number.NEGATIVE_INFINITY)),
    Number.POSITIVE_INFINITY,
  );
}

/**
 * The first wake after `after`. An interval runs from `lastContactAt`; a device never seen is expected one interval after `after`.
 * Undefined when the schedule names no further time, or bounds alone are given.
 */
export function nextWakeAt(schedule: Wake, after: number, lastContactAt: number | undefined): number | undefined {
  if ('cron' in schedule) return nextRunAt(parse(schedule), after);
  if (!('everySeconds' in schedule)) return undefined;
  const everyMs = schedule.everySeconds * 1_000;
  const from = lastContactAt ?? after;
  if (after < from) return from + everyMs;
  return from + (Math.floor((after - from) / everyMs) + 1) * everyMs;
}

/** How many wakes fall in (after, until], at most `max`. */
export function countWakes(schedule: Wake, after: number, until: number, lastContactAt: number | undefined, max: number): number {
  let count = 0;
  let at = nextWakeAt(schedule, after, lastContactAt);
  while (count < max && at !== undefined && at <= until) {
    count += 1;
    at = nextWakeAt(schedule, at, lastContactAt);
  }
  return count;
}

/** The n-th wake after `after` (n >= 1); undefined when the schedule ends before. */
export function nthWakeAt(schedule: Wake, n: number, after: number, lastContactAt: number | undefined): number | undefined {
  let at = nextWakeAt(schedule, after, lastContactAt);
  for (let i = 1; i < n && at !== undefined; i += 1) at = nextWakeAt(schedule, at, lastContactAt);
  return at;
}

function nextRunAt({ cron, stretches }: Parsed, after: number): number | undefined {
  const place = firstEndingAfter(stretches, after);
  const known = stretches[place];
  if (known !== undefined && known.from <= after) return known.wakeAt;
  const wakeAt = cron.nextRun(new Date(after))?.getTime();
  if (wakeAt === undefined) return undefined;
  if (known?.wakeAt === wakeAt) {
    known.from = after;
    return wakeAt;
  }
  if (stretchesKept >= STRETCHES_MAX) {
    for (const schedule of parsed.values()) schedule.stretches.length = 0;
    stretchesKept = 0;
  }
  stretches.splice(firstEndingAfter(stretches, after), 0, { from: after, wakeAt });
  stretchesKept += 1;
  return wakeAt;
}

/** Index of the first stretch whose wake comes after `after`. */
function firstEndingAfter(stretches: readonly Stretch[], after: number): number {
  let low = 0;
  let high = stretches.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((stretches[middle]?.wakeAt ?? 0) <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}

function parse(schedule: { cron: string; timezone?: string }): Parsed {
  const known = parsedOf.get(schedule);
  if (known !== undefined) return known;
  const key = `${schedule.timezone ?? 'UTC'} ${schedule.cron}`;
  let found = parsed.get(key);
  if (found === undefined) {
    found = { cron: new Cron(schedule.cron, { timezone: schedule.timezone ?? 'UTC', paused: true }), stretches: [] };
    if (parsed.size >= PARSED_MAX) {
      parsed.clear();
      parsedOf = new WeakMap();
      stretchesKept = 0;
    }
    parsed.set(key, found);
  }
  parsedOf.set(schedule, found);
  return found;
}
