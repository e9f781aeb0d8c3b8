import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { LEASE_SECONDS_DEFAULT, type Command } from '../../devices/command.ts';
import { isLeasable } from '../../devices/command-machine.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { CommandLedger } from './command-ledger.ts';

/**
 * Pushing: hands queued commands to devices that are connected, up to a window of unconfirmed ones each. A session that ends gives back what it
 * had not confirmed, which then goes out by whichever way the device next comes.
 */
export interface PushSession {
  readonly deviceId: string;
  push(command: Command): void;
}

export const PUSH_WINDOW = 8;

export class Dispatcher {
  readonly #ledger: CommandLedger;
  readonly #registry: DeviceRegistry;
  readonly #clock: Clock;
  readonly #sessions = new Map<string, PushSession>();

  constructor(ledger: CommandLedger, registry: DeviceRegistry, clock: Clock) {
    this.#ledger = ledger;
    this.#registry = registry;
    this.#clock = clock;
    ledger.on('queued', (deviceId) => this.#dispatch(deviceId));
    ledger.on('confirmed', (deviceId) => this.#dispatch(deviceId));
  }

  /** From now on this session takes the device's commands, in place of an earlier one. What is open goes out at once. */
  open(session: PushSession): void {
    const had = this.#sessions.get(session.deviceId);
    if (had === session) return;
    this.#sessions.delete(session.deviceId);
    if (had !== undefined) this.#giveBack(session.deviceId);
    this.#sessions.set(session.deviceId, session);
    this.#dispatch(session.deviceId);
  }

  close(session: PushSession): void {
    if (this.#sessions.get(session.deviceId) !== session) return;
    this.#sessions.delete(session.deviceId);
    this.#giveBack(session.deviceId);
  }

  #giveBack(deviceId: string): void {
    for (const { id, state, transport } of [...this.#ledger.book.of(deviceId)]) {
      if (state === 'sent' && transport === 'mqtt') this.#ledger.tryStep(id, { type: 'lapse' });
    }
  }

  #dispatch(deviceId: string): void {
    const session = this.#sessions.get(deviceId);
    const device = session && this.#registry.find(deviceId);
    if (session === undefined || device === undefined) return;
    const now = this.#clock.now();
    const open = this.#ledger.book.of(deviceId);
    let room = PUSH_WINDOW;
    for (const { state, transport } of open) if (state === 'sent' && transport === 'mqtt') room -= 1;
    if (room <= 0) return;
    const leaseMs = (device.limits.leaseSeconds ?? LEASE_SECONDS_DEFAULT) * SECOND_MS;
    const next: Command[] = [];
    for (const command of open) {
      if (next.length >= room) break;
      if (isLeasable(command, now)) next.push(command);
    }
    for (const { id } of next) {
      const handover = this.#ledger.nextHandover();
      const leased = this.#ledger.tryStep(id, { type: 'lease', transport: 'mqtt', leaseMs, handover });
      if (leased?.state === 'sent') session.push(leased);
    }
  }
}
