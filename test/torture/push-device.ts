import { delay } from '../../simulators/client/backoff.ts';
import type { Random } from '../../simulators/models/random.ts';
import { ExecutionLog, reportOf } from './execution-log.ts';
import { MqttLink } from './mqtt-link.ts';
import type { Execution, Records } from './records.ts';
import { messageOf, TelemetrySource } from './telemetry-source.ts';
import type { Victim } from './victim.ts';

/** A device on MQTT: sends readings at a rate, carries out what it is pushed, reports. */
const OUTSTANDING_MAX = 50;
const PROGRESS_SHARE = 0.3;
const WORK_MS_MAX = 300;

export class PushDevice {
  readonly id: string;
  readonly #link: MqttLink;
  readonly #qos: 1 | 2;
  readonly #random: Random;
  readonly #records: Records;
  readonly #log: ExecutionLog;
  readonly #source: TelemetrySource;
  #working = 0;
  #producing: Promise<void> | undefined;

  constructor(id: string, token: string, qos: 1 | 2, parts: { victim: Victim; records: Records; random: Random }) {
    this.id = id;
    this.#qos = qos;
    this.#random = parts.random;
    this.#records = parts.records;
    this.#log = new ExecutionLog(parts.records, id, parts.random.fork('ends'));
    this.#source = new TelemetrySource(parts.records, id, parts.random.fork('telemetry'));
    this.#link = new MqttLink({
      deviceId: id,
      token,
      port: () => parts.victim.mqttPort,
      subscriptions: [`devices/${id}/commands`, `devices/${id}/errors`],
      onMessage: (topic, payload) => this.#take(topic, JSON.parse(payload.toString()) as Record<string, string>),
    });
  }

  /** Nothing waits for an acknowledgement. */
  get isDrained(): boolean {
    return this.#working === 0 && this.#link.outstanding === 0;
  }
  get connections(): number {
    return this.#link.connections;
  }

  /** After a share `cuts` of the messages the connection is lost. */
  produce(everyMs: number, signal: AbortSignal, cuts = 0): void {
    this.#producing = (async () => {
      while (!signal.aborted) {
        await delay(everyMs * (0.5 + this.#random.next()), signal);
        if (signal.aborted) return;
        if (this.#link.outstanding < OUTSTANDING_MAX) void this.#send();
        if (this.#random.chance(cuts)) this.#link.cut();
      }
    })();
  }

  async produced(): Promise<void> {
    await this.#producing;
  }

  close(): void {
    this.#link.close();
  }

  async #send(): Promise<void> {
    const reading = this.#source.next(this.#qos === 1 ? 'mqtt qos 1' : 'mqtt qos 2');
    reading.tries = await this.#link.publish(`devices/${this.id}/telemetry`, messageOf(reading), this.#qos);
    reading.isAcknowledged = true;
    this.#records.acknowledged();
  }

  #take(topic: string, message: Record<string, string>): void {
    if (topic.endsWith('/errors')) return this.#takeError(message);
    const { execution, isNew } = this.#log.take(message['id'] ?? '');
    const upTopic = `devices/${this.id}/commands/${execution.commandId}`;
    if (isNew && this.#random.chance(PROGRESS_SHARE))
      void this.#link.publish(upTopic, { state: 'running', progress: 50 }, this.#qos);
    void this.#report(upTopic, execution, isNew ? this.#random.between(0, WORK_MS_MAX) : 0);
  }

  async #report(topic: string, execution: Execution, workMs: number): Promise<void> {
    this.#working += 1;
    await delay(workMs);
    await this.#link.publish(topic, reportOf(execution), this.#qos);
    this.#working -= 1;
    execution.isAcknowledged = true;
    this.#records.acknowledged();
  }

  /** A report that no longer counts is acknowledged all the same; this says so. */
  #takeError({ topic = '', code }: Record<string, string>): void {
    const execution = this.#records.executions.get(topic.split('/').at(-1) ?? '');
    if (execution !== undefined && code === 'command_finished') execution.isRefused = true;
  }
}
