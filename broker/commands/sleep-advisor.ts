import { DAY_MS, SECOND_MS, type Clock } from '../../devices/clock.ts';
import type { Command, CommandState } from '../../devices/command.ts';
import type { Device } from '../../devices/device.ts';
import { POLL_SECONDS_DEFAULT, sleepHint, type Sleep } from '../../devices/sleep-hint.ts';
import { shortestSpacingMs } from '../../devices/wake-schedule.ts';
import { hasSchedule } from '../../devices/wake-slot.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { PresenceTracker } from '../registry/presence-tracker.ts';
import type { CommandLedger } from './command-ledger.ts';

/**
 * Tells devices until when they may sleep: gathers what devices/sleep-hint.ts decides upon, and notes with presence what was promised. How
 * often something happens to a device is only kept where the hint may depend on it.
 */
type Activity = { at: number; gapMs: number };

/** With more to lease right now nothing else counts. */
const MORE = { isQueued: true, dueAt: undefined } as const;

export class SleepAdvisor {
  readonly #ledger: CommandLedger;
  readonly #registry: DeviceRegistry;
  readonly #presence: PresenceTracker;
  readonly #overload: { readonly pressure: number };
  readonly #clock: Clock;
  readonly #activities = new Map<string, Activity>();

  constructor(
    ledger: CommandLedger,
    registry: DeviceRegistry,
    presence: PresenceTracker,
    overload: { readonly pressure: number },
    clock: Clock,
  ) {
    this.#ledger = ledger;
    this.#registry = registry;
    this.#presence = presence;
    this.#overload = overload;
    this.#clock = clock;
    ledger.on('stepped', (command, from) => {
      if (isOperatorsStep(command, from)) this.#note(command.deviceId);
    });
    registry.onCredentialGone((id, why) => {
      if (why === 'deleted') this.#activities.delete(id);
    });
  }

  /** Until when the device may sleep. `more`: there is more for it to lease right now. */
  advise(device: Device, { more }: { more: boolean }): Sleep {
    const { id } = device;
    const now = this.#clock.now();
    const { wokeAt, sleptMs } = this.#presence.wakeOf(id);
    const { isQueued, dueAt } = more ? MORE : this.#waitingFor(device, now);
    const sleep = sleepHint(device, {
      now,
      wokeAt,
      sleptMs,
      more,
      isQueued,
      dueAt,
      activity: this.#activityOf(device, now),
      pressure: this.#overload.pressure,
    });
    this.#presence.promise(id, sleep.wakeAt);
    return sleep;
  }

  /** Whether commands wait for it that it has not confirmed, and from when one can be handed over that cannot be now. Of a scheduled device only what is urgent is worth a wake. */
  #waitingFor(device: Device, now: number): { isQueued: boolean; dueAt: number | undefined } {
    let isQueued = false;
    let dueAt: number | undefined;
    const isUrgentOnly = hasSchedule(device.wake);
    for (const command of this.#ledger.book.of(device.id)) {
      if (command.state !== 'queued' && command.state !== 'sent') continue;
      isQueued = true;
      if (isUrgentOnly && command.priority !== 'urgent') continue;
      const at = leasableAt(command);
      if (at !== undefined && at > now && (dueAt === undefined || at < dueAt)) dueAt = at;
    }
    return { isQueued, dueAt };
  }

  #activityOf({ id, wake, updatedAt }: Device, now: number): Activity | undefined {
    if (!isAdaptive(wake)) return undefined;
    let activity = this.#activities.get(id);
    if (activity === undefined) {
      activity = { at: now, gapMs: firstGapMs(wake) };
      this.#activities.set(id, activity);
    }
    if (updatedAt > activity.at) see(activity, updatedAt);
    return activity;
  }

  #note(deviceId: string): void {
    const device = this.#registry.find(deviceId);
    if (device === undefined) return;
    const now = this.#clock.now();
    const isKnown = this.#activities.has(deviceId);
    const activity = this.#activityOf(device, now);
    if (isKnown && activity !== undefined) see(activity, now);
  }
}

/** The usual gap moves half way to the one just seen. */
function see(activity: Activity, at: number): void {
  activity.gapMs = (activity.gapMs + Math.max(0, at - activity.at)) / 2;
  activity.at = at;
}

/** Half of it is waited for: so a device of which nothing is known begins with its schedule, or with the usual time between polls. */
function firstGapMs(wake: Device['wake']): number {
  return 2 * (hasSchedule(wake) ? Math.min(shortestSpacingMs(wake), DAY_MS) : POLL_SECONDS_DEFAULT * SECOND_MS);
}

function isAdaptive(wake: Device['wake']): boolean {
  return !hasSchedule(wake) || wake.minSeconds !== undefined || wake.maxSeconds !== undefined;
}

/** Issued, cancelled or superseded: what the device itself does, and time, is no sign that it is wanted. */
function isOperatorsStep({ state }: Command, from: CommandState | 'none'): boolean {
  return from === 'none' || (state !== from && (state === 'cancelled' || state === 'superseded'));
}

/** When a command can be handed over that cannot be now; undefined where this device's own poll has it. */
function leasableAt({ state, notBefore, leaseUntil, transport }: Command): number | undefined {
  if (state === 'queued') return notBefore;
  return transport === 'http' ? undefined : leaseUntil;
}
