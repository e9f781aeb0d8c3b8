import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { LEASE_SECONDS_DEFAULT, type Command } from '../../devices/command.ts';
import { isLeasable } from '../../devices/command-machine.ts';
import type { Device } from '../../devices/device.ts';
import { nextWakeAt } from '../../devices/wake-schedule.ts';
import type { PresenceTracker } from '../registry/presence-tracker.ts';
import type { CommandLedger } from './command-ledger.ts';

/** Pulling: a device that wakes leases what is queued for it, and learns until when it may sleep. */
export type Pulled = {
  readonly commands: readonly Command[];
  /** There is more to lease right now. */
  readonly more: boolean;
  readonly sleep: Sleep;
};

/** Until when the device may sleep: `pending`, come again at once; `schedule`, its next wake. */
export type Sleep = {
  readonly untilSeconds: number;
  /** Epoch milliseconds. */
  readonly wakeAt: number;
  readonly reason: 'schedule' | 'pending';
};

/** What a device without a schedule is told to wait between polls. */
export const POLL_SECONDS_DEFAULT = 30;

export class CommandPull {
  readonly #ledger: CommandLedger;
  readonly #presence: PresenceTracker;
  readonly #clock: Clock;

  constructor(ledger: CommandLedger, presence: PresenceTracker, clock: Clock) {
    this.#ledger = ledger;
    this.#presence = presence;
    this.#clock = clock;
  }

  /**
   * Leases up to `limit` commands in the order of delivery. The attempt is written with the next commit, which the answer does not wait for: a
   * crash may repeat a hand-over, never lose one.
   */
  lease(device: Device, limit: number): Pulled {
    this.#presence.contact(device.id);
    const isNewWake = this.#presence.takeWake(device.id);
    const now = this.#clock.now();
    const open = this.#ledger.book.of(device.id);
    if (open.length === 0) return { commands: [], more: false, sleep: this.#sleep(device, false) };
    if (isNewWake) {
      for (const { id, expiresWakes } of [...open]) if (expiresWakes !== undefined) this.#ledger.tryStep(id, { type: 'wake' });
    }
    const leasable = this.#ledger.book.of(device.id).filter((command) => isLeasable(command, now));
    const leaseMs = (device.limits.leaseSeconds ?? LEASE_SECONDS_DEFAULT) * SECOND_MS;
    const commands = leasable
      .slice(0, limit)
      .map(({ id }) =>
        this.#ledger.tryStep(id, { type: 'lease', transport: 'http', leaseMs, handover: this.#ledger.nextHandover() }),
      )
      .filter((command) => command !== undefined);
    const more = leasable.length > limit;
    return { commands, more, sleep: this.#sleep(device, more) };
  }

  #sleep(device: Device, more: boolean): Sleep {
    const now = this.#clock.now();
    if (more) return { untilSeconds: 0, wakeAt: now, reason: 'pending' };
    const scheduled = device.wake && nextWakeAt(device.wake, now, now);
    const wakeAt = scheduled ?? now + POLL_SECONDS_DEFAULT * SECOND_MS;
    return { untilSeconds: Math.max(1, Math.ceil((wakeAt - now) / SECOND_MS)), wakeAt, reason: 'schedule' };
  }
}
