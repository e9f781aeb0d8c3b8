import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Aedes, type AuthenticateError, type Client, type ConnectPacket, type PublishPacket, type Subscription } from 'aedes';
import type { Logger } from 'pino';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { MESSAGE_BYTES_MAX } from '../../devices/telemetry.ts';
import { commandsTopic, errorsTopic, isDownTopic, notifyTopic } from '../../devices/topics.ts';
import type { CommandLedger } from '../commands/command-ledger.ts';
import type { Dispatcher } from '../commands/dispatcher.ts';
import type { Notifier } from '../commands/notifier.ts';
import type { Metrics } from '../metrics.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { PresenceTracker } from '../registry/presence-tracker.ts';
import type { DeviceMessages, Taken } from './device-messages.ts';
import type { Change } from '../store/state.ts';
import { errorOf, refused, type Authenticator, type Identity } from './authenticate.ts';
import { compositePersistence } from './composite-persistence.ts';
import { devicePersistence, type DevicePersistence } from './device-persistence.ts';
import { DeviceSession } from './device-session.ts';
import type { JournalRoom } from './journal-room.ts';
import { readPackets } from './packet-reader.ts';
import type { Programs } from './programs.ts';
import { QuickTelemetry } from './quick-telemetry.ts';
import type { ReceivedMessages } from './received-messages.ts';

/**
 * MQTT, on aedes. A connection is bound to the device whose token it shows, which may publish and subscribe to its own topics alone; or to a
 * program's key (see Programs). aedes acknowledges after `authorizePublish` has called back, so that is where messages become durable.
 */
export type MqttServerParts = {
  readonly registry: DeviceRegistry;
  readonly authenticator: Authenticator;
  readonly programs: Programs;
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
const CONNECT_TIMEOUT_MS = 10_000;
const PACKET_BYTES_MAX = 4 * MESSAGE_BYTES_MAX;
const CLOSE_WAIT_MS_MAX = 5_000;
/** For MQTT 3.1, whose client ids end at 23: a program's has its key's id before it. */
const CLIENT_ID_CHARS_MAX = 256;

type OutgoingPacket = { topic: string; payload: Buffer | string; messageId?: number; clientId?: string };

/** aedes drops messages that overtake each other by this record; commands and errors are never duplicates of one another. */
const REMEMBERS_NOTHING: object = Object.freeze(new Proxy({}, { get: () => undefined, set: () => true }));

export class MqttServer {
  readonly #parts: MqttServerParts;
  readonly #aedes: Aedes;
  readonly #persistence: DevicePersistence;
  readonly #sessions = new WeakMap<object, DeviceSession>();
  readonly #sessionsOf = new Map<string, Set<DeviceSession>>();
  readonly #sockets = new Set<Duplex>();
  #tcp: Server | undefined;
  #isClosing = false;

  constructor(parts: MqttServerParts) {
    this.#parts = parts;
    const ofDevices = devicePersistence(
      (client, messageId) => this.#onPuback(client, messageId),
      (client, messageId) => this.#onPubrel(client, messageId),
    );
    this.#persistence = compositePersistence(ofDevices, parts.programs);
    this.#aedes = new Aedes({
      id: 'downlink',
      persistence: this.#persistence,
      concurrency: 0,
      drainTimeout: DRAIN_TIMEOUT_MS,
      connectTimeout: CONNECT_TIMEOUT_MS,
      maxClientsIdLength: CLIENT_ID_CHARS_MAX,
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

  /** Listens for MQTT over TCP; resolves with the port. */
  async listen(host: string, port: number): Promise<number> {
    await this.#aedes.listen();
    await this.#parts.programs.start();
    const tcp = createServer({ noDelay: true }, (socket) => this.accept(socket));
    this.#tcp = tcp;
    await new Promise<void>((resolve, reject) => {
      tcp.once('error', reject);
      tcp.listen(port, host, resolve);
    });
    tcp.on('error', (error) => this.#parts.log.error(`MQTT port: ${error.message}`));
    return (tcp.address() as AddressInfo).port;
  }

  /** Takes a connection, whatever it came by: a TCP socket or the stream of a WebSocket. */
  accept(stream: Socket | Duplex): void {
    if (this.#isClosing) {
      stream.destroy();
      return;
    }
    this.#sockets.add(stream);
    stream.once('close', () => this.#sockets.delete(stream));
    const client = this.#aedes.handle(stream);
    stream.once('close', () => this.#end(client));
    let telemetry: QuickTelemetry | undefined;
    readPackets(client, {
      packetBytesMax: PACKET_BYTES_MAX,
      onTooLong: () => {
        this.#parts.metrics.rejects.inc({ transport: 'mqtt', code: 'body_too_large' });
        this.#parts.log.info({ device: client.id }, `MQTT: cut for a packet of more than ${PACKET_BYTES_MAX} bytes`);
        stream.destroy();
      },
      takePublish: (octets, from, to) => {
        telemetry ??= this.#quickTelemetryOf(client);
        return telemetry?.take(octets, from, to) ?? false;
      },
    });
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
    this.#parts.authenticator.prepare(client, packet);
    done(null, true);
  }

  #authenticate(
    client: Client,
    username: string | undefined,
    password: Buffer | undefined,
    done: (error: AuthenticateError | null, success: boolean | null) => void,
  ): void {
    const identity = this.#isClosing
      ? refused('the server is stopping')
      : this.#parts.authenticator.identify(client, username, password);
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
    const session = new DeviceSession(identity.id, client);
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
    const program = this.#parts.programs.of(client);
    if (program !== undefined) return this.#parts.programs.authorizePublish(program, packet, done);
    const session = client === null ? undefined : this.#sessions.get(client);
    if (session === undefined || session.isCut) return done(new Error('no such session'));
    packet.retain = false;
    session.replies.run(
      () => this.#take(session, packet),
      (error) => done(error),
    );
  }

  async #take(session: DeviceSession, packet: PublishPacket): Promise<Error | null> {
    const { topic, payload, qos, messageId, dup } = packet;
    // [MQTT-4.3.3-2]: a QoS 2 message seen before its PUBREL is the same message.
    if (qos === 2 && (await this.#isRepeat(session, packet))) return null;
    const body = typeof payload === 'string' ? Buffer.from(payload) : payload;
    const taken =
      qos === 2 && messageId !== undefined
        ? await this.#parts.received.once(session.deviceId, { messageId, dup, topic, payload: body }, (changes) =>
            this.#takeWithRoom(session, topic, body, qos, changes),
          )
        : await this.#takeWithRoom(session, topic, body, qos);
    if (taken === 'repeat') return null;
    if (taken.outcome === 'taken') return this.#parts.programs.follow({ topic, payload: body, qos, retain: false });
    this.#tell(session.client, topic, taken.error);
    if (taken.outcome === 'refused') return null;
    if (qos > 0) return taken.error;
    this.#parts.metrics.droppedMessages.inc();
    return null;
  }

  async #takeWithRoom(
    session: DeviceSession,
    topic: string,
    body: Buffer,
    qos: number,
    changes?: readonly Change[],
  ): Promise<Taken> {
    const { messages } = this.#parts;
    for (;;) {
      const taken = await messages.take(session.deviceId, topic, body, changes);
      if (taken.outcome !== 'not_now' || taken.error.code !== 'journal_full' || qos === 0) return taken;
      if (!(await this.#hasRoom(session, topic, taken.error))) return taken;
    }
  }

  /**
   * Holds a message, and so its acknowledgement, until the journal has room; false when the connection goes first. aedes reads on only when
   * all packets it has read are done, so the socket is paused by this, and what is held of it bounded by one chunk. PINGREQs are
   * not read either: a pause longer than 1.5 x keepalive ends the connection [MQTT-3.1.2-24], and the device, which was not
   * acknowledged, comes back with the same messages. That is as well: one that waits for ever for a PINGRESP goes by itself.
   */
  async #hasRoom(session: DeviceSession, topic: string, error: DownlinkError): Promise<boolean> {
    if (this.#isClosing) return false;
    if (session.held === 0) this.#tell(session.client, topic, error);
    session.held += 1;
    try {
      return await this.#parts.room.wait(session.gone);
    } finally {
      session.held -= 1;
    }
  }

  async #isRepeat(session: DeviceSession, packet: PublishPacket & { messageId?: number }): Promise<boolean> {
    return this.#persistence.incomingGetPacket(session.client, packet).then(
      () => true,
      () => false,
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
    const program = this.#parts.programs.of(client);
    if (program !== undefined) {
      return done(null, this.#parts.programs.authorizeSubscribe(program, subscription) ? subscription : null);
    }
    const session = this.#sessions.get(client);
    if (session === undefined || !isDownTopic(session.deviceId, subscription.topic)) {
      this.#parts.metrics.rejects.inc({ transport: 'mqtt', code: 'foreign_topic' });
      this.#tell(
        client,
        subscription.topic,
        new DownlinkError('foreign_topic', 'a device may subscribe to its own topics alone'),
      );
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
    if (session.hasBacklog) return null;
    packet.messageId = session.messageIdFor(Object(packet.payload) as object);
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
