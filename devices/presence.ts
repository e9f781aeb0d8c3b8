import { SECOND_MS } from './clock.ts';
import { GRACE_SECONDS_DEFAULT, SILENT_SECONDS_DEFAULT, type Device, type WakeSchedule } from './device.ts';
import { expectedWakeAt, type Habit } from './expected-wakes.ts';
import { nextWakeAt, nthWakeAt } from './wake-schedule.ts';
import { hasSchedule, slotMsOf } from './wake-slot.ts';

/**
 * What is known of a device's reachability: a pure function of its contacts, its schedule and the time.
 *
 *   never    no contact yet
 *   online   an MQTT session or event stream is open
 *   waiting  a long poll is parked
 *   asleep   silent, as its schedule (or its silence limit, without one) allows
 *   late     past one wake by more than the grace
 *   missed   past two or three wakes; `missedWakes` says how many
 *   lost     past more than three wakes, or silent beyond its limit without a schedule
 *   revoked  its credential was withdrawn
 *
 * A device is due at its wake by the schedule or at the one it was promised by its last sleep hint, whichever is later: so neither one that
 * follows the schedule nor one that does as it is told is ever called late.
 */
export const PRESENCE_STATES = ['never', 'online', 'waiting', 'asleep', 'late', 'missed', 'lost', 'revoked'] as const;
export type PresenceState = (typeof PRESENCE_STATES)[number];

/** Something may be wrong with the device. Sleeping is not. */
export function isAlert(state: PresenceState): boolean {
  return state === 'late' || state === 'missed' || state === 'lost';
}

/** A device that sleeps is found so at the end of each connection: only one that stays away is worth a word. */
export function mustSettle(from: PresenceState, to: PresenceState): boolean {
  if (to === 'online' || to === 'revoked') return false;
  return to === 'waiting' || from === 'online' || from === 'waiting';
}

/** What is known of a device's contacts. */
export type Contacts = Habit & {
  /** Open MQTT sessions and event streams. */
  readonly sessions: number;
  /** Parked long polls. */
  readonly parked: number;
  /** Until then nobody was there to hear it: a wake or a silence before that is not held against it. */
  readonly excusedUntil?: number | undefined;
  readonly revoked?: boolean;
};

export type Presence = {
  readonly state: PresenceState;
  /** Scheduled wakes that passed without a contact. */
  readonly missedWakes: number;
  readonly nextWakeAt?: number;
  /** When the state changes next if nothing is heard; absent when only an event can change it. */
  readonly changesAt?: number;
};

const MISSED_WAKES_MAX = 3;

export function presenceOf(
  device: Pick<Device, 'id' | 'wake' | 'graceSeconds' | 'limits'>,
  contacts: Contacts,
  now: number,
): Presence {
  const { wake } = device;
  const { lastContactAt, promisedWakeAt, excusedUntil = 0 } = contacts;
  const next = expectedWakeAt(device, contacts, now);
  const known = (state: PresenceState, missedWakes = 0, changesAt?: number): Presence => ({
    state,
    missedWakes,
    ...(next !== undefined && { nextWakeAt: next }),
    ...(changesAt !== undefined && { changesAt }),
  });
  if (contacts.revoked) return known('revoked');
  if (contacts.sessions > 0) return known('online');
  if (contacts.parked > 0) return known('waiting');
  if (lastContactAt === undefined) return known('never');
  const promised = promisedWakeAt !== undefined && promisedWakeAt > lastContactAt ? promisedWakeAt : undefined;
  const graceMs = (device.graceSeconds ?? GRACE_SECONDS_DEFAULT) * SECOND_MS;
  if (!hasSchedule(wake)) {
    const silentMs = (device.limits.silentSeconds ?? SILENT_SECONDS_DEFAULT) * SECOND_MS;
    const lostAt = Math.max(Math.max(lastContactAt, excusedUntil) + silentMs, (promised ?? 0) + Math.min(graceMs, silentMs));
    return now >= lostAt ? known('lost') : known('asleep', 0, lostAt);
  }
  // A device may wake a little early: a contact within the grace before a wake was that wake.
  const counted = 'cron' in wake ? lastContactAt + graceBefore(wake, lastContactAt, graceMs) : lastContactAt;
  let missed = 0;
  let due = nextWakeAt(wake, Math.max(counted, excusedUntil), lastContactAt);
  if (due !== undefined && promised !== undefined) due = Math.max(due, promised);
  while (due !== undefined && due + graceMs <= now && missed <= MISSED_WAKES_MAX) {
    missed += 1;
    due = dueAfter(device, wake, due, { lastContactAt, promised });
  }
  const changesAt = due === undefined || missed > MISSED_WAKES_MAX ? undefined : due + graceMs;
  if (missed === 0) return known('asleep', 0, changesAt);
  if (missed === 1) return known('late', 1, changesAt);
  return known(missed <= MISSED_WAKES_MAX ? 'missed' : 'lost', missed, changesAt);
}

/** The wake after one that was missed; a device with a promise is in its slot, or a whole interval after what it was promised. */
function dueAfter(
  device: Pick<Device, 'id' | 'wake' | 'graceSeconds'>,
  wake: WakeSchedule,
  due: number,
  { lastContactAt, promised }: { lastContactAt: number; promised: number | undefined },
): number | undefined {
  if (promised === undefined) return nextWakeAt(wake, due, lastContactAt);
  const next = nextWakeAt(wake, due, due);
  return next === undefined ? undefined : next + slotMsOf(device);
}

/** The grace that counts before a wake: never more than half the way from one wake to the next. */
function graceBefore(wake: WakeSchedule, lastContactAt: number, graceMs: number): number {
  const first = nthWakeAt(wake, 1, lastContactAt, lastContactAt);
  const second = nthWakeAt(wake, 2, lastContactAt, lastContactAt);
  if (first === undefined || first - lastContactAt > graceMs) return 0;
  const spacing = second === undefined ? Number.POSITIVE_INFINITY : second - first;
  return Math.min(graceMs, spacing / 2);
}
