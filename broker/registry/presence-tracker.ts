import type { Clock } from '../../devices/clock.ts';
import { presenceOf, type Contacts, type Presence, type PresenceState } from '../../devices/presence.ts';
import { Deadlines } from '../deadlines.ts';
import type { LiveEvents } from '../live-events.ts';
import type { State } from '../store/state.ts';
import { valuesUnder } from '../store/values.ts';
import type { DeviceRegistry } from './device-registry.ts';

/**
 * Follows each device's contacts and tells when its presence changes. Contacts are kept in memory and written to State every few
 * seconds, many at a time: a crash forgets a few seconds of them, a poll costs no disk.
 */
const PREFIX = 'contact/';
const SAVE_EVERY_MS = 5_000;
/** Contacts closer together than this are one wake. */
const WAKE_GAP_MS_MAX = 10_000;

type Tracked = { sessions: number; parked: number; lastContactAt?: number; told: PresenceState; isWakeTaken: boolean };

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
  }

  async load(): Promise<void> {
    for await (const [key, { lastContactAt }] of valuesUnder<{ lastContactAt: number }>(this.#state, PREFIX)) {
      const id = key.slice(PREFIX.length);
      if (this.#registry.find(id) === undefined) continue;
      this.#tracked.set(id, { sessions: 0, parked: 0, lastContactAt, told: 'never', isWakeTaken: true });
    }
    // The states as they are now are where events start from; a restart is no news.
    for (const [id, tracked] of this.#tracked) {
      const presence = this.presence(id);
      tracked.told = presence.state;
      this.#deadlines.set(id, presence.changesAt);
    }
    this.#saving = setInterval(() => void this.#save().catch(() => {}), SAVE_EVERY_MS);
    this.#saving.unref();
  }

  presence(id: string): Presence {
    return presenceOf(this.#registry.get(id), this.contacts(id), this.#clock.now());
  }

  contacts(id: string): Contacts {
    return this.#tracked.get(id) ?? { sessions: 0, parked: 0 };
  }

  /** The device was heard of. A first contact, or one after a silence, begins a new wake. */
  contact(id: string): void {
    const tracked = this.#track(id);
    const now = this.#clock.now();
    const { lastContactAt } = tracked;
    if (lastContactAt === undefined || now - lastContactAt >= this.#wakeGapMs(id)) tracked.isWakeTaken = false;
    tracked.lastContactAt = now;
    this.#unsaved.add(id);
    this.refresh(id);
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
    const presence = this.presence(id);
    this.#deadlines.set(id, presence.changesAt);
    if (presence.state === tracked.told) return;
    const from = tracked.told;
    tracked.told = presence.state;
    this.#events.publish({ type: 'presence', deviceId: id, at: this.#clock.now(), from, presence });
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
    const changes = ids.map((id) => ({
      put: PREFIX + id,
      value: JSON.stringify({ lastContactAt: this.#tracked.get(id)?.lastContactAt ?? this.#clock.now() }),
    }));
    try {
      await this.#state.commit(changes, []);
    } catch (error) {
      for (const id of ids) this.#unsaved.add(id);
      throw error;
    }
  }

  #track(id: string): Tracked {
    let tracked = this.#tracked.get(id);
    if (tracked === undefined) {
      tracked = { sessions: 0, parked: 0, told: 'never', isWakeTaken: false };
      this.#tracked.set(id, tracked);
    }
    return tracked;
  }

  #wakeGapMs(id: string): number {
    const wake = this.#registry.find(id)?.wake;
    if (wake === undefined || 'cron' in wake) return WAKE_GAP_MS_MAX;
    return Math.min(WAKE_GAP_MS_MAX, (wake.everySeconds * 1_000) / 2);
  }
}
