import type { Clock } from '../../devices/clock.ts';
import type { CommandLedger } from './command-ledger.ts';

/**
 * When what each device would be handed over last changed, in memory. The times only grow, and one that was looked at is never given to a later change:
 * who saw the queue at a time has seen all changes up to that time, whatever the system's clock does.
 */
export class QueueChanges {
  readonly #clock: Clock;
  readonly #lastChangeAt = new Map<string, number>();
  readonly #startedAt: number;
  #latest: number;

  /** `clock` gives no time that an earlier run has given. */
  constructor(ledger: CommandLedger, clock: Clock) {
    this.#clock = clock;
    this.#startedAt = clock.now();
    this.#latest = this.#startedAt;
    ledger.on('queued', (deviceId) => this.note(deviceId));
    ledger.on('stepped', ({ deviceId, state }, from) => {
      if (from === 'queued' && state !== 'queued') this.note(deviceId);
    });
  }

  /** The queue changed just now. */
  note(deviceId: string): void {
    this.#lastChangeAt.set(deviceId, (this.#latest = Math.max(this.#clock.now(), this.#latest)));
  }

  /** Epoch milliseconds; the start of the server when nothing has changed since. */
  lastChangeAt(deviceId: string): number {
    this.#latest = Math.max(this.#clock.now(), this.#latest);
    return this.#lastChangeAt.get(deviceId) ?? this.#startedAt;
  }

  forget(deviceId: string): void {
    this.#lastChangeAt.delete(deviceId);
  }
}
