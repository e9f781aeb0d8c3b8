import { connect as mqttConnect, type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt';
import { commandsTopic, errorsTopic, notifyTopic, parseUpTopic, reportTopic, telemetryTopic } from '../../devices/topics.ts';
import { backoffMs } from './backoff.ts';
import type { DeviceCore } from './device-core.ts';
import { readJson } from './read-command.ts';

export type MqttLinkOptions = {
  /** `mqtt://host:1883`, `mqtts://…`, or over WebSocket `ws://host:8080/mqtt`, `wss://…`. */
  readonly url: string;
  readonly deviceId: string;
  /** Empty: the client certificate in `mqtt` is enough. */
  readonly token: string;
  /** What comes down besides errors: commands, or the word that there are some. */
  readonly subscribe: readonly ('commands' | 'notify')[];
  /** How long to wait before connecting again; 0.5 s doubling to 60 s unless said otherwise. */
  readonly reconnect?: { readonly minMs: number; readonly maxMs: number };
  /** Another way to connect, for tests and simulated faults. */
  readonly connect?: (url: string, options: IClientOptions) => MqttClient;
  /** TLS and the like, as the mqtt package names them. `keepalive` is 30 s unless said otherwise; a dead connection is noticed after 1.5 times that. */
  readonly mqtt?: Pick<IClientOptions, 'ca' | 'cert' | 'key' | 'rejectUnauthorized' | 'keepalive'>;
};

export type MqttLinkEvents = {
  online(): void;
  /** Only after `online`. */
  offline(): void;
  /** The server refuses the token. The link tries again, seldom, unless it is closed. */
  tokenRefused(error: Error): void;
  /** `notify`: commands wait to be pulled. */
  notified(): void;
};

/**
 * A device's MQTT connection, made again whenever it is lost until `close`. Commands go to the core, and PUBACK is sent when one is on record there; what
 * waits in the core is published, a few messages at a time. Every connection is a new, clean one: the server's queue and the core are the
 * truth, no MQTT session is.
 */
export class MqttLink {
  readonly #core: DeviceCore;
  readonly #options: MqttLinkOptions;
  readonly #events: MqttLinkEvents;
  readonly #underWay = new Set<UnderWay>();
  #mode: 'new' | 'connecting' | 'online' | 'offline' | 'closed' = 'new';
  #connection: MqttClient | undefined;
  #retry: NodeJS.Timeout | undefined;
  #failures = 0;
  #window = 1;

  constructor(core: DeviceCore, options: MqttLinkOptions, events: MqttLinkEvents) {
    this.#core = core;
    this.#options = options;
    this.#events = events;
  }

  open(): void {
    if (this.#mode === 'new') this.#connect();
  }

  get isOnline(): boolean {
    return this.#mode === 'online';
  }

  /**
   * Publishes what waits. One message first, then more at a time with each acknowledgement, so that even a connection that
   * never lasts gets something through.
   */
  pump(): void {
    while (this.#mode === 'online' && this.#underWay.size < this.#window) {
      const next = this.#next();
      if (next === undefined) return;
      this.#publish(next);
    }
  }

  /** Ends the connection for good; `abruptly` when it may be dead. */
  async close(abruptly: boolean): Promise<void> {
    if (this.#mode === 'closed') return;
    this.#mode = 'closed';
    clearTimeout(this.#retry);
    this.#putBack();
    await this.#connection?.endAsync(abruptly).catch(() => {});
  }

  #connect(): void {
    const { url, deviceId, token, mqtt = {}, connect = mqttConnect } = this.#options;
    this.#mode = 'connecting';
    const connection = connect(url, {
      keepalive: KEEPALIVE_SECONDS_DEFAULT,
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
    connection.handleMessage = (packet, acknowledge) => void this.#receive(packet, () => acknowledge());
    connection.on('connect', () => this.#subscribe(connection));
    connection.on('error', (error) => this.#failed(connection, error));
    connection.on('close', () => this.#closed(connection));
    connection.on('packetreceive', ({ cmd }) => {
      // One that is made again and again and carries nothing is as good as none.
      if (this.#connection === connection && PROOFS.has(cmd)) this.#failures = 0;
    });
  }

  #subscribe(connection: MqttClient): void {
    const { deviceId, subscribe } = this.#options;
    const topics = [...subscribe.map((what) => TOPIC_OF[what](deviceId)), errorsTopic(deviceId)];
    connection.subscribe(topics, { qos: 1 }, (error) => {
      if (this.#connection !== connection || this.#mode !== 'connecting') return;
      if (error) {
        this.#core.problem(error);
        connection.end(true);
        return;
      }
      this.#mode = 'online';
      this.#window = 1;
      this.#events.online();
      this.pump();
    });
  }

  #failed(connection: MqttClient, error: Error): void {
    if (this.#connection !== connection || this.#mode === 'closed') return;
    this.#core.problem(error);
    if (!CREDENTIAL_REFUSED.has((error as { code?: unknown }).code)) return;
    // A token that was good once may be so again (a server restored from a backup): asked for seldom.
    this.#failures = FAILURES_WHEN_REFUSED;
    this.#events.tokenRefused(error);
  }

  #closed(connection: MqttClient): void {
    if (this.#connection !== connection || this.#mode === 'closed' || this.#mode === 'offline') return;
    const wasOnline = this.#mode === 'online';
    this.#mode = 'offline';
    this.#putBack();
    if (wasOnline) this.#events.offline();
    const { minMs, maxMs } = this.#options.reconnect ?? RECONNECT;
    // A server that answers is asked again before long, though its connections carry nothing.
    const range = { minMs, maxMs: wasOnline ? Math.min(maxMs, AFTER_ONLINE_MS_MAX) : maxMs };
    this.#retry = setTimeout(() => this.#connect(), backoffMs(this.#failures, range));
    this.#failures += 1;
  }

  /** Without PUBACK, the server gives a command out again. */
  async #receive(packet: IPublishPacket, acknowledge: () => void): Promise<void> {
    const { deviceId } = this.#options;
    const message = readJson(typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload);
    if (packet.topic === notifyTopic(deviceId)) this.#events.notified();
    else if (packet.topic === errorsTopic(deviceId)) this.#refused(message);
    else if (!(await this.#core.take(message))) return;
    acknowledge();
  }

  /** `{"topic","code","message"}`: what the server would not take. It comes beside the acknowledgement. */
  #refused(message: unknown): void {
    const { topic, code, message: text } = (message ?? {}) as { topic?: unknown; code?: unknown; message?: unknown };
    const up = parseUpTopic(this.#options.deviceId, String(topic));
    this.#core.problem(new Error(`${String(topic)} was refused: ${String(code)}: ${String(text)}`));
    if (up.kind === 'report') this.#core.refusedAfterwards(up.commandId, String(code));
  }

  #next(): UnderWay | undefined {
    const { deviceId } = this.#options;
    const report = this.#core.reports.take();
    if (report !== undefined) {
      return {
        topic: reportTopic(deviceId, report.commandId),
        payload: JSON.stringify(report.report),
        settle: () => report.settle('stored'),
        putBack: () => report.putBack(),
      };
    }
    const parcel = this.#core.samples.take(1);
    return (
      parcel && {
        topic: telemetryTopic(deviceId),
        payload: JSON.stringify(parcel.samples[0]),
        settle: () => parcel.settle('stored'),
        putBack: (isFirst) => (isFirst ? parcel.blame() : parcel.putBack()),
      }
    );
  }

  #publish(message: UnderWay): void {
    this.#underWay.add(message);
    this.#connection?.publish(message.topic, message.payload, { qos: 1 }, (error) => {
      // An acknowledgement of an earlier connection is none: its message is on its way again.
      if (error || !this.#underWay.delete(message)) return;
      message.settle();
      this.#window = Math.min(IN_FLIGHT_MAX, this.#window + 1);
      this.pump();
    });
  }

  /** What was under way goes back, in order. */
  #putBack(): void {
    const [first, ...others] = this.#underWay;
    this.#underWay.clear();
    for (const message of others.toReversed()) message.putBack(false);
    // It may be this one that the server answers with a closed socket.
    first?.putBack(true);
  }
}

type UnderWay = {
  readonly topic: string;
  readonly payload: string;
  readonly settle: () => void;
  /** `isFirst`: it had been under way for the longest time. */
  readonly putBack: (isFirst: boolean) => void;
};

const TOPIC_OF = { commands: commandsTopic, notify: notifyTopic } as const;
const PROOFS: ReadonlySet<string> = new Set(['publish', 'puback', 'pingresp']);
const IN_FLIGHT_MAX = 32;
const KEEPALIVE_SECONDS_DEFAULT = 30;
const CONNECT_MS_MAX = 10_000;
/** Above what a hybrid waits for another connection, so that it pulls over one that comes and goes. */
const AFTER_ONLINE_MS_MAX = 10_000;
const RECONNECT = { minMs: 500, maxMs: 60_000 };
/** Straight to the longest wait. */
const FAILURES_WHEN_REFUSED = 7;
/** CONNACK: bad user name or password, not authorized [MQTT-3.2.2.3]. */
const CREDENTIAL_REFUSED: ReadonlySet<unknown> = new Set([4, 5]);
