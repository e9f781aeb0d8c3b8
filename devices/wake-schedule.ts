import { Cron } from 'croner';
import { DownlinkError } from './downlink-error.ts';
import type { WakeSchedule } from './device.ts';

/**
 * When a sleepy device wakes. A cron schedule names wall-clock times in its zone; an interval counts from the last contact.
 * All times are epoch milliseconds.
 */

/** A parsed expression with the last answer it gave: many devices share a schedule, and ask about the same stretch of time. */
type Parsed = { readonly cron: Cron; after: number; next: number | undefined };

const PARSED_MAX = 10_000;
const parsed = new Map<string, Parsed>();

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

function nextRunAt(schedule: Parsed, after: number): number | undefined {
  if (schedule.next !== undefined && schedule.after <= after && after < schedule.next) return schedule.next;
  schedule.next = schedule.cron.nextRun(new Date(after))?.getTime();
  schedule.after = after;
  return schedule.next;
}

function parse(schedule: { cron: string; timezone?: string }): Parsed {
  const key = `${schedule.timezone ?? 'UTC'} ${schedule.cron}`;
  let found = parsed.get(key);
  if (found === undefined) {
    const cron = new Cron(schedule.cron, { timezone: schedule.timezone ?? 'UTC', paused: true });
    found = { cron, after: Number.POSITIVE_INFINITY, next: undefined };
    if (parsed.size >= PARSED_MAX) parsed.clear();
    parsed.set(key, found);
  }
  return found;
}
