import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { LEASE_SECONDS_DEFAULT, type Command } from '../../devices/command.ts';
import { commandMessage } from '../../devices/command-message.ts';
import type { Device } from '../../devices/device.ts';
import { Deadlines } from '../deadlines.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { CommandLedger } from './command-ledger.ts';
import type { DeliveryGate } from './delivery-gate.ts';
import { pushableAt, PushLine, type PushSession } from './push-line.ts';

/**
 * Pushing: hands queued commands to devices that are connected, over MQTT or as events, up to a window of unconfirmed ones a session. Of several sessions of a
 * device the newest takes; when it ends, the one before it does. A session that ends gives back what it had not confirmed, and so does one whose device
 * opens another of the same kind: mostly that is a device which came back before its old connection was known to be dead.
 *
 * The order is that of delivery, each way for itself: a command over the device's `pushBytes` waits for a pull, and holds up none of those behind it.
 *
 * A pull may take over a hand-over that is in doubt: of a session that has let a lease lapse and confirmed nothing since, or that confirms within moments
 * as a rule and has not. So a device behind a connection that died unseen has its commands with its next poll, and still no two ever hold one lease.
 */
export const PUSH_WINDOW = 8;

export class Dispatcher {
  readonly #ledger: CommandLedger;
  readonly #gate: DeliveryGate;
  readonly #registry: DeviceRegistry;
  readonly #clock: Clock;
  /** The newest last. */
  readonly #lines = new Map<string, PushLine[]>();
  readonly #listeners: ((deviceId: string) => void)[] = [];
  /** Devices to which nothing is pushed for the moment, and for how many reasons. */
  readonly #pauses = new Map<string, number>();
  /** By device: when something comes into doubt, or may be pushed again. */
  readonly #deadlines: Deadlines;
  readonly #looksAt = new Map<string, number>();
  readonly #bytesOf = new WeakMap<Command, number>();

  constructor(ledger: CommandLedger, gate: DeliveryGate, registry: DeviceRegistry, clock: Clock) {
    this.#ledger = ledger;
    this.#gate = gate;
    this.#registry = registry;
    this.#clock = clock;
    this.#deadlines = new Deadlines(clock, (deviceId) => this.#onDue(deviceId));
    ledger.on('queued', (deviceId) => this.dispatch(deviceId));
    ledger.on('confirmed', (deviceId) => this.dispatch(deviceId));
  }

  /** Told when a device's sessions or limits have changed, and with them what is pushed and what waits for a pull. */
  onSessions(listener: (deviceId: string) => void): void {
    this.#listeners.push(listener);
  }

  /** From now on this session takes the device's commands. What is open goes out at once. */
  open(session: PushSession): void {
    const { deviceId, transport } = session;
    const lines = this.#lines.get(deviceId) ?? [];
    if (lines.some((line) => line.session === session)) return;
    this.#lines.set(deviceId, lines);
    this.hold(deviceId, () => {
      for (const line of lines) if (line.session.transport === transport) line.giveBack({ isGone: false });
      lines.push(new PushLine(session, this.#ledger));
      session.begin?.();
    });
    for (const listener of this.#listeners) listener(deviceId);
  }

  close(session: PushSession): void {
    const { deviceId } = session;
    const lines = this.#lines.get(deviceId) ?? [];
    const at = lines.findIndex((line) => line.session === session);
    const line = lines[at];
    if (line === undefined) return;
    const wasNewest = at === lines.length - 1;
    lines.splice(at, 1);
    if (lines.length === 0) this.#lines.delete(deviceId);
    this.hold(deviceId, () => {
      line.giveBack({ isGone: true });
      if (wasNewest) lines.at(-1)?.session.begin?.();
    });
    for (const listener of this.#listeners) listener(deviceId);
  }

  /** The device's limits have changed. */
  refresh(deviceId: string): void {
    this.dispatch(deviceId);
    for (const listener of this.#listeners) listener(deviceId);
  }

  /** Pushes what may be pushed now. Calling it too often does nothing. */
  dispatch(deviceId: string): void {
    const lines = this.#lines.get(deviceId);
    if (lines === undefined || this.#pauses.has(deviceId)) return;
    const device = this.#registry.find(deviceId);
    const newest = lines.at(-1);
    if (device === undefined || newest === undefined) return;
    for (const line of lines) line.settle();
    const againAt = this.#push(device, newest);
    const now = this.#clock.now();
    this.#lookAt(deviceId, Math.min(againAt, ...lines.map((line) => line.nextDoubtAt(now))));
  }

  /** Pushes nothing to the device until the function that this gives is called. */
  pause(deviceId: string): () => void {
    this.#pauses.set(deviceId, (this.#pauses.get(deviceId) ?? 0) + 1);
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      const left = (this.#pauses.get(deviceId) ?? 1) - 1;
      if (left > 0) this.#pauses.set(deviceId, left);
      else this.#pauses.delete(deviceId);
      this.dispatch(deviceId);
    };
  }

  /** Runs `work` with nothing pushed to the device meanwhile; what may be pushed is after it. */
  hold<T>(deviceId: string, work: () => T): T {
    if (!this.#lines.has(deviceId)) return work();
    const resume = this.pause(deviceId);
    try {
      return work();
    } finally {
      resume();
    }
  }

  /** What sessions have and a pull may take over all the same. */
  doubtful(deviceId: string): readonly Command[] {
    if (!this.#lines.has(deviceId)) return [];
    return this.#ledger.book.of(deviceId).filter((command) => this.#isInDoubt(command));
  }

  /** Takes that back, for a pull that comes while pushing is on hold. */
  giveBackDoubtful(deviceId: string): void {
    for (const { id } of this.doubtful(deviceId)) this.#ledger.tryStep(id, { type: 'lapse' });
  }

  #isInDoubt(command: Command): boolean {
    if (command.state !== 'sent' || command.transport === 'http' || command.attempts >= command.maxAttempts) return false;
    const line = this.#lines.get(command.deviceId)?.find((one) => one.holds(command));
    return line === undefined || line.doubtfulAt(command) <= this.#clock.now();
  }

  /** What may be leased and will not be pushed, in the order of delivery. */
  waitingForPull(deviceId: string): readonly Command[] {
    const device = this.#registry.find(deviceId);
    if (device === undefined) return [];
    const isConnected = this.#lines.has(deviceId);
    return [...this.#gate.offer(deviceId)].filter((command) => !isConnected || this.#isTooLarge(device, command));
  }

  /** Looks at nothing by itself any more. */
  stop(): void {
    this.#deadlines.close();
  }

  /** Gives the time from which on there is more to push, as far as time alone stands in the way. */
  #push(device: Device, line: PushLine): number {
    const leaseMs = (device.limits.leaseSeconds ?? LEASE_SECONDS_DEFAULT) * SECOND_MS;
    let chosen = this.#choose(device, line, leaseMs);
    while (!this.#gate.admit(chosen.next)) chosen = this.#choose(device, line, leaseMs);
    for (const command of chosen.tooLarge) this.#defer(device, command);
    for (const command of chosen.next) if (!line.session.isFull) line.push(command, leaseMs);
    return chosen.againAt;
  }

  #choose(device: Device, line: PushLine, leaseMs: number): { next: Command[]; tooLarge: Command[]; againAt: number } {
    const now = this.#clock.now();
    const isBounded = device.limits.pushBytes !== undefined;
    const next: Command[] = [];
    const tooLarge: Command[] = [];
    let againAt = Number.POSITIVE_INFINITY;
    let room = line.session.isFull ? 0 : PUSH_WINDOW - line.unconfirmed;
    for (const command of this.#gate.offer(device.id)) {
      if (room <= 0 && !isBounded) break;
      if (isBounded && this.#isTooLarge(device, command)) {
        tooLarge.push(command);
      } else if (room > 0) {
        const pushAt = pushableAt(command, leaseMs, now);
        if (pushAt > now) {
          againAt = Math.min(againAt, pushAt);
        } else {
          next.push(command);
          room -= 1;
        }
      }
    }
    return { next, tooLarge, againAt };
  }

  #defer(device: Device, command: Command): void {
    const { pushBytes: bytesMax } = device.limits;
    // What a pull has said of it tells more.
    if (bytesMax === undefined || (command.deferral !== undefined && command.deferral.reason !== 'over_push_bytes')) return;
    this.#ledger.tryStep(command.id, { type: 'defer', reason: 'over_push_bytes', bytes: this.#messageBytes(command), bytesMax });
  }

  #isTooLarge({ limits }: Device, command: Command): boolean {
    return limits.pushBytes !== undefined && this.#messageBytes(command) > limits.pushBytes;
  }

  /** Octets of the message that its next hand-over would be. */
  #messageBytes(command: Command): number {
    let bytes = this.#bytesOf.get(command);
    if (bytes === undefined) {
      bytes = Buffer.byteLength(JSON.stringify(commandMessage({ ...command, attempts: command.attempts + 1 })));
      this.#bytesOf.set(command, bytes);
    }
    return bytes;
  }

  #lookAt(deviceId: string, at: number): void {
    if (at === Number.POSITIVE_INFINITY || (this.#looksAt.get(deviceId) ?? Number.POSITIVE_INFINITY) <= at) return;
    this.#looksAt.set(deviceId, at);
    this.#deadlines.set(deviceId, at);
  }

  #onDue(deviceId: string): void {
    this.#looksAt.delete(deviceId);
    this.dispatch(deviceId);
    // For polls that wait: they may take it over.
    if (this.doubtful(deviceId).length > 0) this.#ledger.emit('queued', deviceId);
  }
}
