import type { Device } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { parseReport } from '../../devices/report.ts';
import { MESSAGE_BYTES_MAX, parseTelemetry, readingsIn, type Sample } from '../../devices/telemetry.ts';
import { parseUpTopic, type UpTopic } from '../../devices/topics.ts';
import { parseJson } from '../../devices/json.ts';
import type { CommandLedger } from '../commands/command-ledger.ts';
import { reportCommand } from '../commands/report-command.ts';
import type { Metrics } from '../metrics.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { HistoryPace } from '../store/history-pace.ts';
import type { Change, State } from '../store/state.ts';
import type { Ingest } from '../telemetry/ingest.ts';
import type { Rejects } from '../telemetry/rejects.ts';

/**
 * What a device's PUBLISH means: telemetry or a report, taken to durability. Never throws: a message that breaks a rule is refused for good
 * (acknowledged, kept among the rejects, told), one that cannot be stored now is not acknowledged, so that the device sends it again.
 */
export type Taken =
  | { readonly outcome: 'taken' }
  | { readonly outcome: 'refused'; readonly error: DownlinkError }
  | { readonly outcome: 'not_now'; readonly error: DownlinkError };

/** What is to be there after a crash if the message is, and not if it is not. */
export type Along = {
  readonly changes: readonly Change[];
  /** Called in the turn in which the message is committed, with the promise of its durability: what it commits is of the same batch. */
  readonly onCommit: (durable: Promise<unknown>) => void;
};

const NOT_NOW = new Set(['journal_full', 'storage_unavailable', 'shutting_down', 'internal']);
const TAKEN: Taken = { outcome: 'taken' };

type MessageParts = {
  readonly state: State;
  readonly registry: DeviceRegistry;
  readonly ingest: Ingest;
  readonly ledger: CommandLedger;
  readonly rejects: Rejects;
  readonly pace: HistoryPace;
  readonly metrics: Metrics;
};

/** What becomes durable with one promise. */
type Together = { readonly durable: Promise<void>; mayAcknowledge: Promise<void>; readings: number; octets: number };

export class DeviceMessages {
  readonly #state: State;
  readonly #registry: DeviceRegistry;
  readonly #ingest: Ingest;
  readonly #ledger: CommandLedger;
  readonly #rejects: Rejects;
  readonly #pace: HistoryPace;
  readonly #metrics: Metrics;
  readonly #telemetryMessages;
  readonly #reportMessages;
  readonly #readings;
  #together: Together | undefined;

  constructor({ state, registry, ingest, ledger, rejects, pace, metrics }: MessageParts) {
    this.#state = state;
    this.#registry = registry;
    this.#ingest = ingest;
    this.#ledger = ledger;
    this.#rejects = rejects;
    this.#pace = pace;
    this.#metrics = metrics;
    this.#telemetryMessages = metrics.messages.labels('mqtt', 'telemetry');
    this.#reportMessages = metrics.messages.labels('mqtt', 'report');
    this.#readings = metrics.readings.labels('mqtt');
  }

  take(deviceId: string, topic: string, payload: Buffer, along: Along): Promise<Taken> {
    try {
      return this.#takeAs(parseUpTopic(deviceId, topic), deviceId, payload, along).then(
        () => TAKEN,
        (thrown: unknown) => this.#refuse(deviceId, topic, payload, thrown),
      );
    } catch (thrown) {
      return this.#refuse(deviceId, topic, payload, thrown);
    }
  }

  /**
   * Telemetry without fault, while there is room for it: resolves when it may be acknowledged, with one promise for all that is written together.
   * Undefined where `take` is to judge.
   */
  takeTogether(deviceId: string, text: string): Promise<void> | undefined {
    let samples: Sample[];
    let durable: Promise<void>;
    // Escapes can say what is no character.
    if (text.includes('\\u')) return undefined;
    try {
      samples = parseTelemetry(JSON.parse(text));
      durable = this.#ingest.takeTogether(this.#registry.get(deviceId), samples);
    } catch {
      return undefined;
    }
    this.#telemetryMessages.inc();
    const together = this.#together?.durable === durable ? this.#together : this.#begin(durable);
    together.readings += readingsIn(samples);
    together.octets += text.length;
    return together.mayAcknowledge;
  }

  #begin(durable: Promise<void>): Together {
    const together: Together = { durable, mayAcknowledge: durable, readings: 0, octets: 0 };
    together.mayAcknowledge = durable.then(() => {
      this.#readings.inc(together.readings);
      return this.#pace.wait(together.octets);
    });
    // Whoever waits for it handles it, and may not be there yet.
    together.mayAcknowledge.catch(() => {});
    this.#together = together;
    return together;
  }

  #takeAs(up: UpTopic, deviceId: string, payload: Buffer, along: Along): Promise<unknown> {
    if (payload.length > MESSAGE_BYTES_MAX) {
      throw new DownlinkError(
        'body_too_large',
        `a message takes at most ${MESSAGE_BYTES_MAX} bytes, this one has ${payload.length}`,
      );
    }
    switch (up.kind) {
      case 'telemetry':
        return this.#takeTelemetry(this.#registry.get(deviceId), payload, along);
      case 'report':
        return this.#takeReport(deviceId, up.commandId, payload, along);
      case 'foreign':
        throw new DownlinkError('foreign_topic', `${deviceId} may publish below devices/${deviceId}/ alone`);
      case 'unknown':
        throw new DownlinkError('unknown_topic', 'a device publishes to its telemetry and commands/{commandId} topics');
    }
  }

  #takeTelemetry(device: Device, payload: Buffer, { changes, onCommit }: Along): Promise<void> {
    const samples = parseTelemetry(parseJson(payload));
    this.#telemetryMessages.inc();
    const commit = this.#ingest.prepare(device, samples, 0);
    const taken = commit(changes);
    onCommit(taken);
    return taken.then((count) => {
      this.#readings.inc(count);
      return this.#pace.wait(payload.length);
    });
  }

  #takeReport(deviceId: string, commandId: string, payload: Buffer, { changes, onCommit }: Along): Promise<unknown> {
    const report = parseReport(parseJson(payload));
    this.#reportMessages.inc();
    return reportCommand(this.#ledger, deviceId, commandId, report, 'mqtt', (durable) => {
      if (changes.length > 0) this.#state.commit(changes, [], 'exempt').catch(() => {});
      onCommit(durable);
    });
  }

  async #refuse(deviceId: string, topic: string, payload: Buffer, thrown: unknown): Promise<Taken> {
    const error =
      thrown instanceof DownlinkError ? thrown : new DownlinkError('internal', 'a fault of the server', { cause: thrown });
    if (NOT_NOW.has(error.code)) return { outcome: 'not_now', error };
    this.#metrics.rejects.inc({ transport: 'mqtt', code: error.code });
    try {
      await this.#rejects.keep(deviceId, { transport: 'mqtt', where: topic, body: payload }, error);
    } catch (failure) {
      if (failure instanceof DownlinkError) return { outcome: 'not_now', error: failure };
      throw failure;
    }
    return { outcome: 'refused', error };
  }
}
