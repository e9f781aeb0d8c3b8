import type { Clock } from '../../devices/clock.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { CommandLedger } from './command-ledger.ts';

/**
 * When what each device would be handed over last changed, in memory. The times only grow, and one that was looked at is never given to a later change:
 * who saw the queue at a time has seen all changes up to that time, whatever the system's clock does.
 */
export class QueueChanges {
  readonly #registry: DeviceRegistry;
  readonly #clock: Clock;
  readonly #lastChangeAt = new Map<string, number>();
  readonly #takenTag = new Map<string, string>();
  readonly #startedAt: number;
  #latest: number;

  /** `clock` gives no time that an earlier run has given. */
  constructor(ledger: CommandLedger, registry: DeviceRegistry, clock: Clock) {
    this.#registry = registry;
    this.#clock = clock;
    this.#startedAt = clock.now();
    this.#latest = this.#startedAt;
    ledger.on('queued', (deviceId) => this.note(deviceId));
    ledger.on('stepped', ({ deviceId, state }, from) => {
      if (from === 'queued' && state !== 'queued') this.note(deviceId);
    });
    registry.onCredentialGone((deviceId, why) => {
      if (why !== 'deleted') return;
      this.#lastChangeAt.delete(deviceId);
      this.#takenTag.delete(deviceId);
    });
  }

  /** The queue changed just now. */
  note(deviceId: string): void {
    this.#latest = Math.max(this.#clock.now(), this.#latest);
    if (this.#registry.find(deviceId) !== undefined) this.#lastChangeAt.set(deviceId, this.#latest);
  }

  /** An answer with this tag took commands along. */
  noteTaken(deviceId: string, etag: string): void {
    if (this.#registry.find(deviceId) !== undefined) this.#takenTag.set(deviceId, etag);
  }

  /** The tag of the last answer that took commands along. */
  takenTag(deviceId: string): string | undefined {
    return this.#takenTag.get(deviceId);
  }

  /** Epoch milliseconds; the start of the server when nothing has changed since. */
  lastChangeAt(deviceId: string): number {
    this.#latest = Math.max(this.#clock.now(), this.#latest);
    return this.#lastChangeAt.get(deviceId) ?? this.#startedAt;
  }
}
