import { connect as mqttConnect, type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt';
import type { Report } from '../../devices/report.ts';
import { commandsTopic, errorsTopic, parseUpTopic, reportTopic, telemetryTopic } from '../../devices/topics.ts';
import type { MetricValue } from '../../devices/telemetry.ts';
import { backoffMs, delay } from './backoff.ts';
import { readCommand, readJson } from './read-command.ts';
import { CommandRunner } from './command-runner.ts';
import type { ClientEvents, CommandHandler, Delivery, DeviceClient } from './device-client.ts';
import { ExecutedCommands } from './executed-commands.ts';
import { PublishQueue } from './publish-queue.ts';
import { uniqueTs } from './unique-ts.ts';

export type PushClientOptions = {
  /** `mqtt://host:1883`, `mqtts://…`, or over WebSocket `ws://host:8080/mqtt`, `wss://…`. */
  readonly url: string;
  readonly deviceId: string;
  readonly token: string;
  /** Open one with a file to keep it over restarts; in memory otherwise. */
  readonly executed?: ExecutedCommands;
  readonly events?: ClientEvents;
  /** Another way to connect, for tests and simulated faults. */
  readonly connect?: (url: string, options: IClientOptions) => MqttClient;
  /** TLS and the like, as the mqtt package names them. */
  readonly mqtt?: Pick<IClientOptions, 'ca' | 'cert' | 'key' | 'rejectUnauthorized' | 'keepalive'>;
};

/**
 * A device that stays connected, over MQTT 3.1.1. Commands come the moment they are issued; PUBACK is sent when a command is on
 * record here. Every connection is a new, clean one: the server's queue and the queue here are the truth, no MQTT session is.
 */
export class PushClient implements DeviceClient {
  readonly #options: PushClientOptions;
  readonly #executed: ExecutedCommands;
  readonly #runner: CommandRunner;
  readonly #queue = new PublishQueue();
  readonly #ts = uniqueTs();
  #mode: 'new' | 'connecting' | 'online' | 'offline' | 'stopped' = 'new';
  #connection: MqttClient | undefined;
  #retry: NodeJS.Timeout | undefined;
  #failures = 0;
  #firstContact: { resolve: () => void; reject: (error: Error) => void } | undefined;

  constructor(options: PushClientOptions) {
    this.#options = options;
    this.#executed = options.executed ?? new ExecutedCommands();
    this.#runner = new CommandRunner(this.#executed, (commandId, report) => this.#report(commandId, report));
  }

  onCommand(name: string, handler: CommandHandler): void {
    this.#runner.handle(name, handler);
  }

  start(): Promise<void> {
    if (this.#mode !== 'new') return Promise.reject(new Error('a client starts once'));
    return new Promise((resolve, reject) => {
      this.#firstContact = { resolve, reject };
      this.#runner.reportAgain();
      this.#open();
    });
  }

  telemetry(values: Readonly<Record<string, MetricValue>>, ts?: number): Promise<Delivery> {
    if (this.#mode === 'stopped') return Promise.resolve('dropped');
    return this.#queue.add('telemetry', telemetryTopic(this.#options.deviceId), JSON.stringify({ ts: ts ?? this.#ts(), values }));
  }

  async stop(): Promise<void> {
    if (this.#mode === 'stopped') return;
    const until = Date.now() + STOP_MS_MAX;
    while (this.#isStarted() && this.#queue.size > 0 && Date.now() < until) await delay(STOP_POLL_MS);
    const allSaid = this.#mode === 'online' && this.#queue.size === 0;
    this.#mode = 'stopped';
    clearTimeout(this.#retry);
    this.#runner.stop();
    this.#queue.close();
    this.#firstContact?.reject(new Error('stopped before the server was reached'));
    await this.#connection?.endAsync(!allSaid).catch(() => {});
    await this.#executed.flush().catch((error: Error) => this.#problem(error));
  }

  #isStarted(): boolean {
    return this.#mode !== 'new' && this.#mode !== 'stopped';
  }

  #open(): void {
    const { url, deviceId, token, mqtt = {}, connect = mqttConnect } = this.#options;
    this.#mode = 'connecting';
    const connection = connect(url, {
      ...mqtt,
      clientId: deviceId,
      username: deviceId,
      password: token,
      protocolVersion: 4,
      clean: true,
      reconnectPeriod: 0,
      resubscribe: false,
      connectTimeout: CONNECT_MS_MAX,
    });
    this.#connection = connection;
    connection.handleMessage = (packet, done) => void this.#receive(packet).finally(() => done());
    connection.on('connect', () => this.#subscribe(connection));
    connection.on('error', (error) => this.#failed(error));
    connection.on('close', () => this.#closed(connection));
  }

  #subscribe(connection: MqttClient): void {
    const { deviceId } = this.#options;
    connection.subscribe([commandsTopic(deviceId), errorsTopic(deviceId)], { qos: 1 }, (error) => {
      if (this.#connection !== connection || this.#mode !== 'connecting') return;
      if (error) {
        this.#problem(error);
        connection.end(true);
        return;
      }
      this.#mode = 'online';
      this.#failures = 0;
      this.#firstContact?.resolve();
      this.#firstContact = undefined;
      this.#options.events?.connected?.();
      this.#queue.connected((topic, payload, acknowledged) => {
        connection.publish(topic, payload, { qos: 1 }, (refused) => {
          if (!refused) acknowledged();
        });
      });
    });
  }

  #failed(error: Error): void {
    const refused = CREDENTIAL_REFUSED.has((error as { code?: unknown }).code);
    if (refused && this.#firstContact !== undefined) {
      this.#firstContact.reject(new Error(`the server refuses the token of ${this.#options.deviceId}`, { cause: error }));
      this.#firstContact = undefined;
      this.#mode = 'stopped';
      this.#queue.close();
      return;
    }
    // A token that was good once may be so again (a server restored from a backup): asked for seldom.
    if (refused) this.#failures = FAILURES_WHEN_REFUSED;
    this.#problem(error);
  }

  #closed(connection: MqttClient): void {
    if (this.#connection !== connection || this.#mode === 'stopped' || this.#mode === 'offline') return;
    const wasOnline = this.#mode === 'online';
    this.#mode = 'offline';
    this.#queue.disconnected();
    if (wasOnline) this.#options.events?.disconnected?.();
    this.#retry = setTimeout(() => this.#open(), backoffMs(this.#failures, RECONNECT));
    this.#failures += 1;
  }

  /** Resolves when the message may be acknowledged. */
  async #receive(packet: IPublishPacket): Promise<void> {
    const { deviceId, events } = this.#options;
    const message = readJson(typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload);
    if (packet.topic === errorsTopic(deviceId)) return this.#refused(message);
    const command = readCommand(message);
    if (command === undefined) return this.#problem(new Error(`a message on ${packet.topic} that is no command`));
    events?.received?.(command);
    await this.#runner.take(command);
  }

  /** `{"topic","code","message"}`: what the server would not take. */
  #refused(message: unknown): void {
    const { topic, code, message: text } = (message ?? {}) as { topic?: unknown; code?: unknown; message?: unknown };
    const up = parseUpTopic(this.#options.deviceId, String(topic));
    this.#problem(new Error(`${String(topic)} was refused: ${String(code)}: ${String(text)}`));
    if (up.kind !== 'report') return;
    const report = this.#executed.state(up.commandId);
    if (typeof report === 'object') this.#options.events?.reported?.(up.commandId, report, 'refused', String(code));
  }

  #report(commandId: string, report: Report): void {
    if (this.#mode === 'stopped') return;
    const kind = report.state === 'running' ? 'progress' : 'end';
    const sent = this.#queue.add(kind, reportTopic(this.#options.deviceId, commandId), JSON.stringify(report));
    void sent.then((delivery) => {
      // What a stop gave up stays unreported on record, for the next start.
      if (kind === 'end' && this.#mode !== 'stopped') this.#executed.reported(commandId);
      this.#options.events?.reported?.(commandId, report, delivery);
    });
  }

  #problem(error: Error): void {
    this.#options.events?.problem?.(error);
  }
}

const CONNECT_MS_MAX = 10_000;
const RECONNECT = { minMs: 500, maxMs: 60_000 };
/** Straight to the longest wait. */
const FAILURES_WHEN_REFUSED = 7;
/** CONNACK: bad user name or password, not authorized [MQTT-3.2.2.3]. */
const CREDENTIAL_REFUSED: ReadonlySet<unknown> = new Set([4, 5]);
const STOP_MS_MAX = 3_000;
const STOP_POLL_MS = 20;
