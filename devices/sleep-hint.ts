import { SECOND_MS } from './clock.ts';
import { GRACE_SECONDS_DEFAULT, SILENT_SECONDS_DEFAULT, type Device } from './device.ts';
import { nextWakeAt } from './wake-schedule.ts';
import { hasSchedule, plannedWakeAt, slotOf, type Sleeper } from './wake-slot.ts';

/**
 * Until when a device may sleep: a pure function of its schedule, of what is known of it, and of the time. In this order:
 *
 *   pending    there is more for it: come again at once; or something will be, at a time that the bounds allow to meet
 *   schedule   its next wake, in its own slot (wake-slot.ts)
 *   activity   sooner or later than that within minSeconds..maxSeconds: half the time that commands and changes usually lie apart, or half
 *              the time since the last one where that is longer
 *   busy       the server is overloaded: later, and spread out further, by as much as the pressure says
 *
 * Without bounds a device with a schedule is never asked to come sooner, and later only when the server is busy.
 */
export const SLEEP_REASONS = ['schedule', 'pending', 'busy', 'activity'] as const;
export type SleepReason = (typeof SLEEP_REASONS)[number];

export type Sleep = {
  /** Whole seconds from now; `Retry-After` says the same. */
  readonly untilSeconds: number;
  /** The same as a time, epoch milliseconds: what the device is then expected at. */
  readonly wakeAt: number;
  readonly reason: SleepReason;
};

export type SleepFacts = {
  readonly now: number;
  /** When this wake began, and how long the device had been silent before. */
  readonly wokeAt: number;
  readonly sleptMs: number;
  /** There is more to lease right now. */
  readonly more: boolean;
  /** Commands wait for it that it has not confirmed. */
  readonly isQueued: boolean;
  /** When the first of those that are worth a wake of their own can be handed over, if it cannot be now. */
  readonly dueAt?: number | undefined;
  /** When a command or a change was last seen, and how far apart they usually are; absent when none was. */
  readonly activity?: { readonly at: number; readonly gapMs: number } | undefined;
  /** 0: calm, to 1: about to fail. */
  readonly pressure: number;
};

/** Between the polls of a device without a schedule of which nothing is known. */
export const POLL_SECONDS_DEFAULT = 30;
const POLL_SECONDS_MIN = 5;
const POLL_SECONDS_MAX = 300;
/** Devices that something waits for at one time are spread over this after it. */
const DUE_SPREAD_MS = 5 * SECOND_MS;
/** How far a device that has more to fetch is put off at full pressure. */
const PENDING_PUSH_MS = 10 * SECOND_MS;
/** How far a scheduled device without `maxSeconds` is put off at full pressure. */
const BUSY_PUSH_SECONDS_MAX = 3_600;
/** A wake of its own is only worth it where it is sooner than the next by this part of the way. */
const SOONER_FRACTION_MIN = 0.2;
/** What a clock may be off by: a device that comes earlier than it should by this part of its sleep has made that wake. */
const EARLY_FRACTION = 0.05;

type Waking = { readonly at: number; readonly reason: SleepReason };

export function sleepHint(device: Sleeper & Pick<Device, 'limits'>, facts: SleepFacts): Sleep {
  const { now, more, pressure } = facts;
  if (more && pressure === 0) return { untilSeconds: 0, wakeAt: now, reason: 'pending' };
  const { at, reason } = more
    ? putOff(device.id, { at: now, reason: 'pending' }, PENDING_PUSH_MS, pressure)
    : waking(device, facts);
  const untilSeconds = Math.max(1, Math.ceil((at - now) / SECOND_MS));
  return { untilSeconds, wakeAt: now + untilSeconds * SECOND_MS, reason };
}

function waking(device: Sleeper & Pick<Device, 'limits'>, facts: SleepFacts): Waking {
  const { now, isQueued, dueAt, pressure } = facts;
  const planned = scheduledAt(device, facts);
  const bounds = boundsOf(device, planned === undefined);
  const usual = planned === undefined ? polled(facts, bounds) : adapted(device, facts, planned, bounds);
  const soonest = now + bounds.minMs;
  if (dueAt !== undefined && bounds.isSoonerAllowed) {
    const at = Math.max(dueAt, soonest) + slotOf(device.id) * DUE_SPREAD_MS;
    if (isWorthIt(now, at, planned === undefined ? Number.POSITIVE_INFINITY : usual.at) && at < usual.at)
      return { at, reason: 'pending' };
  }
  // Commands that wait were promised the next wake of the schedule.
  if (pressure === 0 || (isQueued && planned !== undefined)) return usual;
  const latest = bounds.maxMs === undefined ? latestWhenBusy(device, usual.at) : now + bounds.maxMs;
  return putOff(device.id, usual, latest - usual.at, pressure);
}

/** The next wake by the schedule; a contact a little before its time was that wake. */
function scheduledAt(device: Sleeper, { now, wokeAt, sleptMs }: SleepFacts): number | undefined {
  const { wake } = device;
  if (!hasSchedule(wake)) return undefined;
  if (!('cron' in wake)) return plannedWakeAt(device, now);
  const next = nextWakeAt(wake, now, undefined);
  if (next === undefined) return undefined;
  const earlyMs = Math.min((device.graceSeconds ?? GRACE_SECONDS_DEFAULT) * SECOND_MS, sleptMs * EARLY_FRACTION);
  if (next - wokeAt > earlyMs) return plannedWakeAt(device, now);
  const following = nextWakeAt(wake, next, undefined);
  const isThisWake = following === undefined || next - wokeAt <= (following - next) / 2;
  return plannedWakeAt(device, isThisWake ? next : now);
}

type Bounds = { readonly minMs: number; readonly maxMs: number | undefined; readonly isSoonerAllowed: boolean };

function boundsOf({ wake, limits }: Pick<Device, 'wake' | 'limits'>, isPolling: boolean): Bounds {
  const { minSeconds, maxSeconds } = wake ?? {};
  if (!isPolling) {
    return {
      minMs: (minSeconds ?? 0) * SECOND_MS,
      maxMs: maxSeconds === undefined ? undefined : maxSeconds * SECOND_MS,
      isSoonerAllowed: minSeconds !== undefined,
    };
  }
  const silentSeconds = limits.silentSeconds ?? SILENT_SECONDS_DEFAULT;
  const max = maxSeconds ?? Math.max(minSeconds ?? 0, Math.min(POLL_SECONDS_MAX, silentSeconds / 2));
  return { minMs: (minSeconds ?? Math.min(POLL_SECONDS_MIN, max)) * SECOND_MS, maxMs: max * SECOND_MS, isSoonerAllowed: true };
}

function polled({ now, activity }: SleepFacts, { minMs, maxMs = Number.POSITIVE_INFINITY }: Bounds): Waking {
  const usualMs = POLL_SECONDS_DEFAULT * SECOND_MS;
  const ms = Math.min(Math.max(activity === undefined ? usualMs : quietMs(activity, now) / 2, minMs), maxMs);
  return { at: now + ms, reason: ms === Math.min(Math.max(usualMs, minMs), maxMs) ? 'schedule' : 'activity' };
}

/** A scheduled device's wake, sooner or later as its bounds and what happens allow; later always to one of its schedule. */
function adapted(device: Sleeper, facts: SleepFacts, planned: number, { minMs, maxMs, isSoonerAllowed }: Bounds): Waking {
  const { now, activity, isQueued } = facts;
  const usual: Waking = { at: planned, reason: 'schedule' };
  if (activity === undefined) return usual;
  const wanted = now + quietMs(activity, now) / 2;
  const sooner = Math.max(wanted, now + minMs);
  if (isSoonerAllowed && isWorthIt(now, sooner, planned)) return { at: sooner, reason: 'activity' };
  if (maxMs === undefined || isQueued || wanted <= planned) return usual;
  const latest = Math.min(wanted, now + maxMs);
  const following = plannedWakeAt(device, planned);
  if (following === undefined || following > latest) return usual;
  const later = plannedWakeAt(device, latest - (following - planned));
  return later !== undefined && later > planned && later <= now + maxMs ? { at: later, reason: 'activity' } : usual;
}

function quietMs({ at, gapMs }: { at: number; gapMs: number }, now: number): number {
  return Math.max(gapMs, now - at);
}

function isWorthIt(now: number, at: number, usual: number): boolean {
  return at - now < (usual - now) * (1 - SOONER_FRACTION_MIN);
}

function latestWhenBusy(device: Sleeper, at: number): number {
  const following = plannedWakeAt(device, at);
  return Math.min(following ?? Number.POSITIVE_INFINITY, at + BUSY_PUSH_SECONDS_MAX * SECOND_MS);
}

/** Later by at most `roomMs`, and by as much of it as the pressure says; all devices by half of that at least, the rest spreads them. */
function putOff(deviceId: string, { at, reason }: Waking, roomMs: number, pressure: number): Waking {
  if (roomMs < SECOND_MS) return { at, reason };
  return { at: at + roomMs * pressure * (0.5 + 0.5 * slotOf(deviceId)), reason: 'busy' };
}
