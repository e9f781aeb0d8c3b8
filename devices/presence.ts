import { GRACE_SECONDS_DEFAULT, SILENT_SECONDS_DEFAULT, type Device } from './device.ts';
import { nextWakeAt, nthWakeAt } from './wake-schedule.ts';

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
 */
export const PRESENCE_STATES = ['never', 'online', 'waiting', 'asleep', 'late', 'missed', 'lost', 'revoked'] as const;
export type PresenceState = (typeof PRESENCE_STATES)[number];

/** What is known of a device's contacts. */
export type Contacts = {
  /** Open MQTT sessions and event streams. */
  readonly sessions: number;
  /** Parked long polls. */
  readonly parked: number;
  readonly lastContactAt?: number;
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

export function presenceOf(device: Pick<Device, 'wake' | 'graceSeconds' | 'limits'>, contacts: Contacts, now: number): Presence {
  const { wake } = device;
  const { lastContactAt } = contacts;
  const next = wake && nextWakeAt(wake, now, lastContactAt);
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
  if (wake === undefined) {
    const lostAt = lastContactAt + (device.limits.silentSeconds ?? SILENT_SECONDS_DEFAULT) * 1_000;
    return now >= lostAt ? known('lost') : known('asleep', 0, lostAt);
  }
  const graceMs = (device.graceSeconds ?? GRACE_SECONDS_DEFAULT) * 1_000;
  // A device may wake a little early: a contact within the grace before a wake was that wake.
  const counted = 'cron' in wake ? lastContactAt + graceBefore(wake, lastContactAt, graceMs) : lastContactAt;
  let missed = 0;
  let due = nextWakeAt(wake, counted, lastContactAt);
  while (due !== undefined && due + graceMs <= now && missed <= MISSED_WAKES_MAX) {
    missed += 1;
    due = nextWakeAt(wake, due, lastContactAt);
  }
  const changesAt = due === undefined || missed > MISSED_WAKES_MAX ? undefined : due + graceMs;
  if (missed === 0) return known('asleep', 0, changesAt);
  if (missed === 1) return known('late', 1, changesAt);
  return known(missed <= MISSED_WAKES_MAX ? 'missed' : 'lost', missed, changesAt);
}

/** The grace that counts before a wake: never more than half the way from one wake to the next. */
function graceBefore(wake: NonNullable<Device['wake']>, lastContactAt: number, graceMs: number): number {
  const first = nthWakeAt(wake, 1, lastContactAt, lastContactAt);
  const second = nthWakeAt(wake, 2, lastContactAt, lastContactAt);
  if (first === undefined || first - lastContactAt > graceMs) return 0;
  const spacing = second === undefined ? Number.POSITIVE_INFINITY : second - first;
  return Math.min(graceMs, spacing / 2);
}
