import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Aedes, type AuthenticateError, type Client, type ConnectPacket, type PublishPacket, type Subscription } from 'aedes';
import type { Logger } from 'pino';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { commandsTopic, errorsTopic, isDownTopic, notifyTopic } from '../../devices/topics.ts';
import type { CommandLedger } from '../commands/command-ledger.ts';
import type { Dispatcher } from '../commands/dispatcher.ts';
import type { Notifier } from '../commands/notifier.ts';
import type { Metrics } from '../metrics.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { PresenceTracker } from '../registry/presence-tracker.ts';
import type { DeviceMessages } from './device-messages.ts';
import { errorOf, refused, type Authenticator, type Identity } from './authenticate.ts';
import { compositePersistence } from './composite-persistence.ts';
import { CONNECT_BACKLOG } from '../limits/connection-gate.ts';
import type { Connections } from './connections.ts';
import { DeviceIntake } from './device-intake.ts';
import { devicePersistence } from './device-persistence.ts';
import { DeviceSession } from './device-session.ts';
import type { JournalRoom } from './journal-room.ts';
import { connackOctets, type PacketFault } from './packet-faults.ts';
import { readPackets } from './packet-reader.ts';
import type { Programs } from './programs.ts';
import { QuickTelemetry } from './quick-telemetry.ts';
import { ReadingTurns } from './reading-turns.ts';
import type { ReceivedMessages } from './received-messages.ts';

/**
 * MQTT, on aedes. A connection is bound to the device whose token it shows, which may publish and subscribe to its own topics alone; or to a
 * program's key (see Programs). aedes acknowledges after `authorizePublish` has called back, so that is where messages become durable.
 */
export type MqttServerParts = {
  readonly registry: DeviceRegistry;
  readonly authenticator: Authenticator;
  readonly programs: Programs;
  readonly connections: Connections;
  readonly presence: PresenceTracker;
  readonly ledger: CommandLedger;
  readonly dispatcher: Dispatcher;
  readonly notifier: Notifier;
  readonly messages: DeviceMessages;
  readonly received: ReceivedMessages;
  readonly room: JournalRoom;
  readonly metrics: Metrics;
  readonly log: Logger;
};

const DRAIN_TIMEOUT_MS = 5_000;
/** Connections ends it before. */
const CONNECT_TIMEOUT_MS = 3_600_000;
const CLOSE_WAIT_MS_MAX = 5_000;
/** For MQTT 3.1, whose client ids end at 23: a program's has its key's id before it. */
const CLIENT_ID_CHARS_MAX = 256;

type OutgoingPacket = { topic: string; payload: Buffer | string; messageId?: number; clientId?: string };

/** aedes drops messages that overtake each other by this record; commands and errors are never duplicates of one another. */
const REMEMBERS_NOTHING: object = Object.freeze(new Proxy({}, { get: () => undefined, set: () => true }));

export class MqttServer {
  readonly #parts: MqttServerParts;
  readonly #aedes: Aedes;
  readonly #intake: DeviceIntake;
  readonly #sessions = new WeakMap<object, DeviceSession>();
  readonly #sessionsOf = new Map<string, Set<DeviceSession>>();
  readonly #sockets = new Set<Duplex>();
  readonly #turns = new ReadingTurns();
  #tcp: Server | undefined;
  #isClosing = false;

  constructor(parts: MqttServerParts) {
    this.#parts = parts;
    const ofDevices = devicePersistence(
      (client, messageId) => this.#onPuback(client, messageId),
      (client, messageId) => this.#onPubrel(client, messageId),
    );
    const persistence = compositePersistence(ofDevices, parts.programs);
    this.#intake = new DeviceIntake(parts, persistence, (session, topic, error) => this.#tell(session.client, topic, error));
    this.#aedes = new Aedes({
      id: 'downlink',
      persistence,
      concurrency: 0,
      drainTimeout: DRAIN_TIMEOUT_MS,
      connectTimeout: CONNECT_TIMEOUT_MS,
      maxClientsIdLength: CLIENT_ID_CHARS_MAX,
      // What was received is bounded by client, not by connection.
      maxInflightInbound: 0,
      maxTopicLevels: parts.connections.bounds.topic_levels,
      preConnect: (client, packet, done) => this.#preConnect(client, packet, done),
      authenticate: (client, username, password, done) => this.#authenticate(client, username, password, done),
      authorizePublish: (client, packet, done) => this.#authorizePublish(client, packet, done),
      authorizeSubscribe: (client, subscription, done) => this.#authorizeSubscribe(client, subscription, done),
      authorizeForward: (client, packet) => this.#authorizeForward(client, packet),
    });
    this.#aedes.on('client', (client) => this.#onClient(client));
    this.#aedes.on('clientReady', (client) => this.#onReady(client));
    this.#aedes.on('subscribe', (subscriptions, client) => this.#onReady(client, subscriptions));
    this.#aedes.on('unsubscribe', (topics, client) => this.#onUnsubscribe(topics, client));
    this.#aedes.on('clientDisconnect', (client) => this.#end(client));
    this.#aedes.on('publish', (packet, client) => this.#onPublish(packet, client));
    this.#aedes.on('clientError', (client, error) => parts.log.debug({ device: client.id }, `MQTT: ${error.message}`));
    this.#aedes.on('connectionError', (_, error) => parts.log.debug(`MQTT: ${error.message}`));
    (this.#aedes as NodeJS.EventEmitter).on('error', (error: Error) => parts.log.error(`MQTT: ${error.message}`));
    parts.registry.onCredentialGone((deviceId) => this.cut(deviceId));
  }

  get connections(): number {
    return this.#aedes.connectedClients;
  }

  /** Before anything is accepted. */
  async open(): Promise<void> {
    await this.#aedes.listen();
    await this.#parts.programs.start();
  }

  /** Listens for MQTT over TCP; resolves with the port. */
  async listen(host: string, port: number): Promise<number> {
    const tcp = createServer({ noDelay: true }, (socket) => this.accept(socket));
    this.#tcp = tcp;
    this.#parts.connections.guard(tcp);
    await new Promise<void>((resolve, reject) => {
      tcp.once('error', reject);
      tcp.listen({ port, host, backlog: CONNECT_BACKLOG }, resolve);
    });
    tcp.on('error', (error) => this.#parts.log.error(`MQTT port: ${error.message}`));
    return (tcp.address() as AddressInfo).port;
  }

  /** Takes a connection, whatever it came by: a TCP socket or the stream of a WebSocket. */
  accept(stream: Socket | Duplex, address = ('remoteAddress' in stream ? stream.remoteAddress : '') ?? ''): void {
    if (this.#isClosing || stream.destroyed) {
      stream.destroy();
      return;
    }
    this.#sockets.add(stream);
    stream.once('close', () => this.#sockets.delete(stream));
    const client = this.#aedes.handle(stream);
    stream.once('close', () => this.#end(client));
    let telemetry: QuickTelemetry | undefined;
    readPackets(client, {
      ...this.#parts.connections.follow(stream, client, address, (error) => this.#tell(client, '', error)),
      turns: this.#turns,
      onFault: (fault) => this.#onFault(stream, client, fault),
      takePublish: (octets, from, to) => {
        telemetry ??= this.#quickTelemetryOf(client);
        return telemetry?.take(octets, from, to) ?? false;
      },
    });
  }

  /** [MQTT-4.8.0-1] */
  #onFault(stream: Duplex, client: Client, { text, returnCode }: PacketFault): void {
    this.#parts.metrics.rejects.inc({ transport: 'mqtt', code: 'malformed_packet' });
    this.#parts.log.info({ client: client.id }, `MQTT: closed, since a packet ${text}`);
    if (returnCode === undefined) stream.destroy();
    else stream.end(connackOctets(returnCode), () => stream.destroy());
  }

  #quickTelemetryOf(client: Client): QuickTelemetry | undefined {
    const session = this.#sessions.get(client);
    return session && new QuickTelemetry(session, this.#parts.messages, this.#parts.programs);
  }

  /** Closes the device's connections at once; their wills are not published. */
  cut(deviceId: string): void {
    for (const session of this.#sessionsOf.get(deviceId) ?? []) session.cut();
  }

  /** Refuses new work, lets what was taken be acknowledged, closes without wills. Closing twice is harmless. */
  async close(): Promise<void> {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#intake.stop();
    this.#tcp?.close();
    const sessions = [...this.#sessionsOf.values()].flatMap((set) => [...set]);
    // What waits for room in the journal is let go unacknowledged: the device sends it again to the next start.
    for (const session of sessions) if (session.held > 0) session.cut();
    const until = Date.now() + CLOSE_WAIT_MS_MAX;
    while (sessions.some(({ replies }) => replies.outstanding > 0) && Date.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    for (const session of sessions) session.cut();
    await this.#parts.programs.close(until);
    await new Promise<void>((resolve) => this.#aedes.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
  }

  #preConnect(client: Client, packet: ConnectPacket, done: (error: Error | null, success: boolean) => void): void {
    this.#parts.connections.begin(client, packet);
    this.#parts.authenticator.prepare(client, packet);
    done(null, true);
  }

  #authenticate(
    client: Client,
    username: string | undefined,
    password: Buffer | undefined,
    done: (error: AuthenticateError | null, success: boolean | null) => void,
  ): void {
    // Its end has been dealt with by now: nothing of it would ever be taken away again.
    if (client.conn.destroyed) return done(errorOf(refused('the connection is gone')), null);
    const identity = this.#isClosing
      ? refused('the server is stopping')
      : this.#parts.connections.login(client, this.#parts.authenticator.identify(client, username, password));
    const answer = (refusal: (Identity & { kind: 'refused' }) | undefined): void => {
      if (refusal === undefined) return done(null, true);
      this.#parts.metrics.rejects.inc({ transport: 'mqtt', code: 'unauthorized' });
      done(errorOf(refusal), null);
    };
    this.#admit(client, identity).then(answer, (error: Error) => answer(refused(error.message)));
  }

  async #admit(client: Client, identity: Identity): Promise<(Identity & { kind: 'refused' }) | undefined> {
    const { programs } = this.#parts;
    if (identity.kind === 'refused') return identity;
    if (identity.kind === 'program') {
      return (await programs.admit(client, identity.key)) ? undefined : refused('there is no room for another session');
    }
    const { connections } = this.#parts;
    const session = new DeviceSession(identity.id, client, {
      bytesMax: connections.bounds.backlog_bytes,
      onDropped: () => connections.dropped(identity.id),
    });
    this.#sessions.set(client, session);
    const others = this.#sessionsOf.get(identity.id) ?? new Set();
    this.#sessionsOf.set(identity.id, others.add(session));
    return undefined;
  }

  #onClient(client: Client): void {
    const program = this.#parts.programs.of(client);
    if (program !== undefined) program.isRegistered = true;
    const session = this.#sessions.get(client);
    if (session === undefined) return;
    Object.assign(client, { duplicates: REMEMBERS_NOTHING });
    session.isRegistered = true;
    if (client.clean) this.#parts.received.forget(session.deviceId).catch(() => {});
    this.#parts.presence.session(session.deviceId, 1);
  }

  /** After CONNACK for a session that still has its subscriptions, after SUBACK for new ones: what is open goes out. */
  #onReady(client: Client, subscriptions?: readonly Subscription[]): void {
    const program = this.#parts.programs.of(client);
    if (program !== undefined && subscriptions !== undefined) this.#parts.programs.subscribed(program, subscriptions);
    else program?.open();
    const session = this.#sessions.get(client);
    if (session === undefined || client.closed) return;
    const { deviceId, commandsQos, notifyQos } = session;
    if (commandsQos !== undefined) this.#parts.dispatcher.open(session);
    const isNew = subscriptions?.some(({ topic }) => topic === notifyTopic(deviceId)) ?? true;
    if (notifyQos !== undefined && isNew) this.#parts.notifier.open(session);
  }

  #onUnsubscribe(topics: readonly string[], client: Client): void {
    const program = this.#parts.programs.of(client);
    if (program !== undefined) this.#parts.programs.unsubscribed(program, topics);
    const session = this.#sessions.get(client);
    if (session === undefined) return;
    if (topics.includes(commandsTopic(session.deviceId))) {
      session.commandsQos = undefined;
      this.#parts.dispatcher.close(session);
    }
    if (topics.includes(notifyTopic(session.deviceId))) {
      session.notifyQos = undefined;
      this.#parts.notifier.close(session);
    }
  }

  #end(client: Client): void {
    const program = this.#parts.programs.of(client);
    if (program !== undefined) this.#parts.programs.end(program);
    const session = this.#sessions.get(client);
    if (session === undefined) return;
    this.#sessions.delete(client);
    session.end();
    const others = this.#sessionsOf.get(session.deviceId);
    others?.delete(session);
    if (others?.size === 0) this.#sessionsOf.delete(session.deviceId);
    if (session.isRegistered) this.#parts.presence.session(session.deviceId, -1);
    this.#parts.notifier.close(session);
    // While the server stops, a hand-over without PUBACK stays as it is recorded; the next start takes it back.
    if (!this.#isClosing) this.#parts.dispatcher.close(session);
  }

  #authorizePublish(client: Client | null, packet: PublishPacket, done: (error?: Error | null) => void): void {
    if (!this.#parts.connections.takesTopic(client, packet.topic)) return done(new Error('the topic is too long'));
    const program = this.#parts.programs.of(client);
    if (program !== undefined) return this.#parts.programs.authorizePublish(program, packet, done);
    const session = client === null ? undefined : this.#sessions.get(client);
    if (session === undefined || session.isCut) return done(new Error('no such session'));
    packet.retain = false;
    session.replies.run(
      () => this.#intake.take(session, packet),
      (error) => done(error),
    );
  }

  #tell(client: Client, topic: string, error: DownlinkError): void {
    const session = this.#sessions.get(client);
    if (session === undefined || client.closed) return;
    const payload = Buffer.from(JSON.stringify({ topic, code: error.code, message: error.message }));
    this.#aedes.publish(
      { cmd: 'publish', topic: errorsTopic(session.deviceId), payload, qos: 1, dup: false, retain: false },
      () => {},
    );
  }

  #authorizeSubscribe(
    client: Client,
    subscription: Subscription,
    done: (error: Error | null, subscription?: Subscription | null) => void,
  ): void {
    if (!this.#parts.connections.takesFilter(client, subscription.topic)) return done(null, null);
    const program = this.#parts.programs.of(client);
    if (program !== undefined) {
      return done(null, this.#parts.programs.authorizeSubscribe(program, subscription) ? subscription : null);
    }
    const session = this.#sessions.get(client);
    if (session === undefined || !isDownTopic(session.deviceId, subscription.topic)) {
      this.#parts.metrics.rejects.inc({ transport: 'mqtt', code: 'foreign_topic' });
      if (session?.mayTellOfFilter() === true) {
        const error = new DownlinkError('foreign_topic', 'a device may subscribe to its own topics alone');
        this.#tell(client, subscription.topic, error);
      }
      return done(null, null);
    }
    if (subscription.topic === commandsTopic(session.deviceId)) session.commandsQos = subscription.qos;
    if (subscription.topic === notifyTopic(session.deviceId)) session.notifyQos = subscription.qos;
    done(null, subscription);
  }

  /** What the server itself says, on `$SYS/` and on devices' `errors`; what clients publish has gone its way before. */
  #onPublish({ topic, payload, qos }: PublishPacket, client: Client | null): void {
    if (client !== null) return;
    this.#parts.programs.follow({ topic, payload, qos, retain: false }).catch(() => {});
  }

  #authorizeForward<P extends OutgoingPacket>(client: Client, packet: P): P | null {
    const session = this.#sessions.get(client);
    // What a device publishes is for the broker; nothing of it goes on to a device, refused or not.
    if (packet.clientId !== undefined) return null;
    // A refused filter may still be in a session that aedes restored, so what goes out is looked at again.
    if (session === undefined || !isDownTopic(session.deviceId, packet.topic)) return null;
    if (session.hasBacklog) {
      this.#parts.connections.dropped(session.deviceId);
      return null;
    }
    packet.messageId = session.nextMessageId();
    return packet;
  }

  /** When the disk refuses, PUBCOMP is not sent: the device releases again over its next connection. */
  async #onPubrel(client: object, messageId: number): Promise<void> {
    const session = this.#sessions.get(client);
    if (session === undefined) return;
    await this.#parts.received.release(session.deviceId, messageId).catch(() => session.cut());
  }

  #onPuback(client: object, messageId: number): void {
    const session = this.#sessions.get(client);
    const commandId = session?.takeConfirmed(messageId);
    if (commandId !== undefined) this.#parts.ledger.tryStep(commandId, { type: 'confirm', transport: 'mqtt' });
  }
}
