import { Cron } from 'croner';
import { DownlinkError } from './downlink-error.ts';
import type { WakeSchedule } from './device.ts';

/**
 * When a sleepy device wakes. A cron schedule names wall-clock times in its zone; an interval counts from the last contact.
 * All times are epoch milliseconds.
 */

/** All times in [from, wakeAt) have `wakeAt` as their next wake. */
type Stretch = { from: number; readonly wakeAt: number };

/** A parsed expression and what it answered, in order: many devices share a schedule and ask about the same stretches, and cron is slow. */
type Parsed = { readonly cron: Cron; readonly stretches: Stretch[] };

const PARSED_MAX = 10_000;
const STRETCHES_MAX = 100_000;
const parsed = new Map<string, Parsed>();
/** The same by the schedule itself: a device's is one object for as long as it does not change. */
let parsedOf = new WeakMap<object, Parsed>();
let stretchesKept = 0;

/** Throws `invalid_request` when the expression or the zone is not one, or names no time that ever comes. */
export function assertWakeSchedule(schedule: WakeSchedule, now: number): void {
  if (!('cron' in schedule)) return;
  let next: Date | null;
  try {
    next = parse(schedule).cron.nextRun(new Date(now));
  } catch (error) {
    throw new DownlinkError('invalid_request', `wake.cron: ${(error as Error).message}`, { at: 'wake' });
  }
  if (next === null) throw new DownlinkError('invalid_request', 'wake.cron names no time that ever comes', { at: 'wake.cron' });
}

/**
 * The first wake after `after`. An interval runs from `lastContactAt`; a device never seen is expected one interval after `after`.
 * Undefined when the schedule names no further time.
 */
export function nextWakeAt(schedule: WakeSchedule, after: number, lastContactAt: number | undefined): number | undefined {
  if ('cron' in schedule) return nextRunAt(parse(schedule), after);
  const everyMs = schedule.everySeconds * 1_000;
  const from = lastContactAt ?? after;
  if (after < from) return from + everyMs;
  return from + (Math.floor((after - from) / everyMs) + 1) * everyMs;
}

/** How many wakes fall in (after, until], at most `max`. */
export function countWakes(
  schedule: WakeSchedule,
  after: number,
  until: number,
  lastContactAt: number | undefined,
  max: number,
): number {
  let count = 0;
  let at = nextWakeAt(schedule, after, lastContactAt);
  while (count < max && at !== undefined && at <= until) {
    count += 1;
    at = nextWakeAt(schedule, at, lastContactAt);
  }
  return count;
}

/** The n-th wake after `after` (n >= 1); undefined when the schedule ends before. */
export function nthWakeAt(
  schedule: WakeSchedule,
  n: number,
  after: number,
  lastContactAt: number | undefined,
): number | undefined {
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
