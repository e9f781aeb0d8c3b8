import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import type { Wake } from '../../devices/device.ts';
import { ownWakesAfter } from '../../devices/expected-wakes.ts';
import { isAlert, mustSettle, presenceOf, type Contacts, type Presence, type PresenceState } from '../../devices/presence.ts';
import { Deadlines } from '../deadlines.ts';
import type { LiveEvents } from '../live-events.ts';
import type { State } from '../store/state.ts';
import { valueAt, valuesUnder } from '../store/values.ts';
import type { DeviceRegistry } from './device-registry.ts';

/**
 * Follows each device's contacts, remembers the wake that each was promised, and tells when its presence changes. Contacts are kept in memory
 * and written to State every few seconds, many at a time: a crash forgets a few seconds of them, a poll costs no disk.
 *
 * While the server was down nobody heard the devices: what they should have done in that time is not held against them.
 *
 * A change that may be undone in a moment (a session that drops and returns, the pause between two long polls) is told once it has lasted.
 */
const PREFIX = 'contact/';
/** When a contact was last taken down, as epoch milliseconds: a run of the server has heard all up to then. */
const HEARD_UNTIL = 'meta/heard-until';
const SAVE_EVERY_MS = 5_000;
/** Contacts closer together than this are one wake. */
const WAKE_GAP_MS_MAX = 10_000;
export const SETTLE_MS = 5_000;

type Saved = { lastContactAt: number; promisedWakeAt?: number; ownWakes?: number };

type Tracked = {
  sessions: number;
  parked: number;
  lastContactAt: number | undefined;
  promisedWakeAt: number | undefined;
  ownWakes: number;
  /** When the wake under way began, and how long the device was silent before. */
  wokeAt: number;
  sleptMs: number;
  excusedUntil: number | undefined;
  isWakeTaken: boolean;
  /** What was last told of it, and when what holds now has lasted long enough to be told. */
  told: PresenceState;
  settlesAt: number | undefined;
  /** There is a deadline at which its presence is looked at; contacts only move that on. */
  isWatched: boolean;
};

export class PresenceTracker {
  readonly #registry: DeviceRegistry;
  readonly #state: State;
  readonly #events: LiveEvents;
  readonly #clock: Clock;
  readonly #tracked = new Map<string, Tracked>();
  readonly #unsaved = new Set<string>();
  readonly #deadlines: Deadlines;
  #saving: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(registry: DeviceRegistry, state: State, events: LiveEvents, clock: Clock) {
    this.#registry = registry;
    this.#state = state;
    this.#events = events;
    this.#clock = clock;
    this.#deadlines = new Deadlines(clock, (id) => this.refresh(id));
    registry.onCredentialGone((id, why) => {
      if (why === 'deleted') return;
      // Also of a device that never came.
      this.#track(id);
      this.refresh(id);
    });
  }

  async load(): Promise<void> {
    const now = this.#clock.now();
    const heardUntil = (await valueAt<number>(this.#state, HEARD_UNTIL)) ?? now;
    for await (const [key, saved] of valuesUnder<Saved>(this.#state, PREFIX)) {
      const id = key.slice(PREFIX.length);
      if (this.#registry.find(id) === undefined) continue;
      this.#tracked.set(id, { ...untracked(saved.lastContactAt), ...saved, isWakeTaken: true });
    }
    // The states as they are now are where events start from; a restart is no news.
    for (const [id, tracked] of this.#tracked) {
      if (!isAlert(presenceOf(this.#registry.get(id), tracked, heardUntil).state)) tracked.excusedUntil = now;
      const presence = this.presence(id);
      tracked.told = presence.state;
      this.#watch(id, tracked, presence.changesAt);
    }
    this.#saving = setInterval(() => void this.#save().catch(() => {}), SAVE_EVERY_MS);
    this.#saving.unref();
  }

  presence(id: string): Presence {
    return presenceOf(this.#registry.get(id), this.contacts(id), this.#clock.now());
  }

  contacts(id: string): Contacts {
    const contacts = this.#tracked.get(id) ?? NO_CONTACTS;
    return this.#registry.isRevoked(id) ? { ...contacts, revoked: true } : contacts;
  }

  /** When the wake under way began, and how long the device was silent before, milliseconds. */
  wakeOf(id: string): { readonly wokeAt: number; readonly sleptMs: number } {
    return this.#track(id);
  }

  /** The device was heard of. A first contact, or one after a silence, begins a new wake. */
  contact(id: string): void {
    const tracked = this.#track(id);
    const now = this.#clock.now();
    const { lastContactAt } = tracked;
    const device = this.#registry.find(id);
    if (lastContactAt === undefined || now - lastContactAt >= wakeGapMs(device?.wake)) {
      if (device !== undefined) tracked.ownWakes = ownWakesAfter(device, tracked, now);
      tracked.isWakeTaken = false;
      tracked.wokeAt = now;
      tracked.sleptMs = lastContactAt === undefined ? 0 : now - lastContactAt;
    }
    tracked.lastContactAt = now;
    this.#unsaved.add(id);
    if (tracked.told !== 'asleep' || !tracked.isWatched) this.refresh(id);
  }

  /** The device was told to come again at this time. */
  promise(id: string, wakeAt: number): void {
    const tracked = this.#track(id);
    const had = tracked.promisedWakeAt;
    tracked.promisedWakeAt = wakeAt;
    this.#unsaved.add(id);
    // Later is found when the deadline comes.
    if (had !== undefined && had > wakeAt && had > this.#clock.now()) this.refresh(id);
  }

  /** True once a wake: for the first that asks after it began, whichever contact (telemetry, a poll) began it. */
  takeWake(id: string): boolean {
    const tracked = this.#track(id);
    const isNew = !tracked.isWakeTaken;
    tracked.isWakeTaken = true;
    return isNew;
  }

  /** A session or stream opened (1) or closed (-1). */
  session(id: string, change: 1 | -1): void {
    this.#reach(id, 'sessions', change);
  }

  /** A poll was parked (1) or let go of (-1): the device waits for what comes. */
  park(id: string, change: 1 | -1): void {
    this.#reach(id, 'parked', change);
  }

  /** Works the presence out anew and tells of a change; call it when the device's schedule changed. */
  refresh(id: string): void {
    const tracked = this.#tracked.get(id);
    if (tracked === undefined || this.#registry.find(id) === undefined) return;
    const now = this.#clock.now();
    const presence = this.presence(id);
    const { told: from } = tracked;
    if (presence.state === from) {
      tracked.settlesAt = undefined;
    } else if (mustSettle(from, presence.state) && (tracked.settlesAt ??= now + SETTLE_MS) > now) {
      this.#watch(id, tracked, Math.min(tracked.settlesAt, presence.changesAt ?? Number.POSITIVE_INFINITY));
      return;
    } else {
      tracked.settlesAt = undefined;
      tracked.told = presence.state;
      this.#events.publish({ type: 'presence', deviceId: id, at: now, from, presence });
    }
    this.#watch(id, tracked, presence.changesAt);
  }

  /** The device is no more. */
  async forget(id: string): Promise<void> {
    this.#deadlines.set(id, undefined);
    this.#unsaved.delete(id);
    if (this.#tracked.delete(id)) await this.#state.commit([{ del: PREFIX + id }], []);
  }

  /** Saves what is unsaved; sessions that end from here on, because the server stops, change nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#saving);
    this.#deadlines.close();
    await this.#save();
  }

  #reach(id: string, way: 'sessions' | 'parked', change: 1 | -1): void {
    if (this.#closed) return;
    const tracked = this.#track(id);
    tracked[way] = Math.max(0, tracked[way] + change);
    tracked.lastContactAt = this.#clock.now();
    this.#unsaved.add(id);
    this.refresh(id);
  }

  async #save(): Promise<void> {
    if (this.#unsaved.size === 0) return;
    const ids = [...this.#unsaved];
    this.#unsaved.clear();
    const changes = ids.map((id) => ({ put: PREFIX + id, value: JSON.stringify(this.#savedOf(id)) }));
    const heardUntil = { put: HEARD_UNTIL, value: JSON.stringify(this.#clock.now()) };
    try {
      await this.#state.commit([...changes, heardUntil], []);
    } catch (error) {
      for (const id of ids) this.#unsaved.add(id);
      throw error;
    }
  }

  #savedOf(id: string): Saved {
    const { lastContactAt = this.#clock.now(), promisedWakeAt, ownWakes } = this.#track(id);
    return { lastContactAt, ...(promisedWakeAt !== undefined && { promisedWakeAt }), ...(ownWakes > 0 && { ownWakes }) };
  }

  #track(id: string): Tracked {
    let tracked = this.#tracked.get(id);
    if (tracked === undefined) {
      tracked = untracked(this.#clock.now());
      this.#tracked.set(id, tracked);
    }
    return tracked;
  }

  #watch(id: string, tracked: Tracked, at: number | undefined): void {
    tracked.isWatched = at !== undefined;
    this.#deadlines.set(id, at);
  }
}

const NO_CONTACTS: Contacts = { sessions: 0, parked: 0 };

function untracked(wokeAt: number): Tracked {
  return {
    sessions: 0,
    parked: 0,
    lastContactAt: undefined,
    promisedWakeAt: undefined,
    ownWakes: 0,
    wokeAt,
    sleptMs: 0,
    excusedUntil: undefined,
    isWakeTaken: false,
    told: 'never',
    settlesAt: undefined,
    isWatched: false,
  };
}

function wakeGapMs(wake: Wake | undefined): number {
  if (wake === undefined || !('everySeconds' in wake)) return WAKE_GAP_MS_MAX;
  return Math.min(WAKE_GAP_MS_MAX, (wake.everySeconds * SECOND_MS) / 2);
}
