import { isEnded, type Command } from '../../devices/command.ts';
import type { CommandEvent } from '../../devices/command-machine.ts';
import type { Device } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { SyncMessage } from '../../devices/sync-message.ts';
import type { DeviceClocks } from '../telemetry/device-clocks.ts';
import { readingsIn } from '../../devices/telemetry.ts';
import type { Ingest } from '../telemetry/ingest.ts';
import type { TelemetryKeys, UnderKey } from '../telemetry/telemetry-keys.ts';
import type { CommandLedger } from './command-ledger.ts';
import type { CommandPull } from './pull.ts';

/**
 * One-trip wakes: all that a device says in one message counts together or not at all, and before anything is leased to it.
 *
 * What can be refused is looked at first: the cursor, room in the journal, the commands that are spoken of. Then telemetry, reports and confirms are taken in
 * one turn, which makes them one commit of State. Should the disk refuse that, the steps of commands are kept in memory and written in time, as
 * those of single reports are; the device is told that nothing was acknowledged, and saying it again changes nothing that had counted.
 */
export type SyncTaken = {
  /** Readings that were stored, now or when they came first. */
  readonly readings: number;
  /** The readings came before, under the same Idempotency-Key. */
  readonly isRepeat: boolean;
  /** Reports and confirms that did not count, in the order of the message. They keep nothing else from counting. */
  readonly refused: readonly SyncRefusal[];
};

export type SyncRefusal = {
  /** `reports[1]`, `confirms[0]`. */
  readonly at: string;
  /** Of the command. */
  readonly id: string;
  /** `unknown_command` or `command_finished`. */
  readonly error: DownlinkError;
};

type Word = { readonly at: string; readonly id: string; readonly event: CommandEvent };

export class DeviceSync {
  readonly #ledger: CommandLedger;
  readonly #pull: CommandPull;
  readonly #ingest: Ingest;
  readonly #clocks: DeviceClocks;
  readonly #keys: TelemetryKeys;

  constructor(ledger: CommandLedger, pull: CommandPull, ingest: Ingest, clocks: DeviceClocks, keys: TelemetryKeys) {
    this.#ledger = ledger;
    this.#pull = pull;
    this.#ingest = ingest;
    this.#clocks = clocks;
    this.#keys = keys;
  }

  /**
   * Resolves when all of it is durable. Under an Idempotency-Key its readings are stored once. Throws `invalid_cursor`, `idempotency_conflict`, `journal_full`,
   * `shutting_down` and `storage_unavailable`, the first three before anything has changed.
   */
  async take(device: Device, message: SyncMessage, idempotencyKey?: string): Promise<SyncTaken> {
    const { samples, since } = message;
    const words = wordsOf(message);
    const key = samples.length === 0 ? undefined : idempotencyKey;
    let found: ReadonlyMap<string, Command>;
    do {
      found = await this.#find(device.id, words);
      if (key !== undefined) await this.#keys.load(device.id);
    } while (!this.#isCurrent(found));

    // From here to the end of the turn nothing waits.
    if (since !== undefined) this.#pull.checkCursor(device, since, 'since');
    const under = key === undefined ? undefined : this.#keys.look(device.id, key, samples, readingsIn(samples));
    const takeReadings = this.#readingsTaker(device, message, under);
    const durable: Promise<unknown>[] = [];
    const refused: SyncRefusal[] = [];
    const readings = takeReadings();
    for (const { at, id, event } of words) {
      const error = this.#step(device.id, id, found.get(id), event, durable);
      if (error !== undefined) refused.push({ at, id, error });
    }
    if (since !== undefined) durable.push(this.#pull.confirmThrough(device, since, 'since'));
    const [count] = await Promise.all([readings, ...durable]);
    return { readings: count, isRepeat: under?.isRepeat === true, refused };
  }

  /** What stores the readings, if they are not a repeat; throws at once when there is no room for them. */
  #readingsTaker(device: Device, message: SyncMessage, under: UnderKey | undefined): () => Promise<number> {
    if (under?.isRepeat === true) return () => under.count;
    const take = this.#ingest.prepare(device, message.samples, this.#shiftMsOf(device, message));
    return under === undefined ? () => take([]) : () => under.take(take(under.changes));
  }

  #step(
    deviceId: string,
    id: string,
    command: Command | undefined,
    event: CommandEvent,
    durable: Promise<unknown>[],
  ): DownlinkError | undefined {
    if (command === undefined) {
      return new DownlinkError('unknown_command', `${deviceId} has no command with the id ${id.slice(0, 64)}`);
    }
    try {
      durable.push(this.#ledger.step(command, event).durable);
      return undefined;
    } catch (error) {
      if (error instanceof DownlinkError) return error;
      throw error;
    }
  }

  /** The device's own commands among those that it speaks of. */
  async #find(deviceId: string, words: readonly Word[]): Promise<Map<string, Command>> {
    const found = new Map<string, Command>();
    for (const id of new Set(words.map((word) => word.id))) {
      const command = await this.#ledger.find(id);
      if (command?.deviceId === deviceId) found.set(id, command);
    }
    return found;
  }

  /** False when one that was open has ended meanwhile: it is no longer in memory, and what was found is of the past. */
  #isCurrent(found: ReadonlyMap<string, Command>): boolean {
    for (const command of found.values()) if (!isEnded(command) && this.#ledger.book.get(command.id) === undefined) return false;
    return true;
  }

  #shiftMsOf(device: Device, { sentAt, samples }: SyncMessage): number {
    return sentAt === undefined ? 0 : this.#clocks.shiftMsOf(device, sentAt, samples);
  }
}

/** Reports first: they say more than a confirmation does. */
function wordsOf({ reports, confirms }: SyncMessage): Word[] {
  return [
    ...reports.map(({ id, report }, i): Word => ({
      at: `reports[${i}]`,
      id,
      event: { type: 'report', report, transport: 'http' },
    })),
    ...confirms.map((id, i): Word => ({ at: `confirms[${i}]`, id, event: { type: 'confirm', transport: 'http' } })),
  ];
}
