import { randomUUID } from 'node:crypto';
import type { Client, PublishPacket, Subscription } from 'aedes';
import { mayPublish, maySubscribe, type TopicRights } from '../../devices/topic-rights.ts';
import type { Metrics } from '../metrics.ts';
import type { OperatorKey, OperatorKeys } from '../registry/operator-keys.ts';
import { MessageRouter, type RoutedMessage } from './message-router.ts';
import { ProgramSession } from './program-session.ts';
import type { OnReached } from './sessions/session-bounds.ts';
import type { SessionStore } from './sessions/session-store.ts';
import type { GivenPacket } from './sessions/stored-packet.ts';
import type { Subscribed } from './sessions/subscriptions.ts';

/**
 * Programs over MQTT: who logs in with an operator key that has rights there. aedes reads and writes their packets; what they send goes to who
 * subscribes by the router here, which knows of durability, order and QoS what aedes does not. A program's client id is kept under its key's
 * id, so that neither a device nor another key ever meets its session.
 */

const CLIENT_ID_CHARS_MAX = 128;
const SEPARATOR = '/';

/** aedes asks for a session's subscriptions and so learns whether there is a session; the subscriptions themselves are known here. */
export const SESSION_MARK: Subscribed = Object.freeze({ topic: 'session', qos: 0 });

export class Programs {
  readonly store: SessionStore;
  readonly router: MessageRouter;
  readonly #keys: OperatorKeys;
  readonly #metrics: Metrics;
  readonly #onReached: OnReached;
  readonly #sessions = new WeakMap<object, ProgramSession>();
  /** Who has a client id now; a newer connection takes it over [MQTT-3.1.4-2]. */
  readonly #holders = new Map<string, ProgramSession>();
  #isClosing = false;

  constructor(store: SessionStore, keys: OperatorKeys, metrics: Metrics, onReached: OnReached = () => {}) {
    this.store = store;
    this.#keys = keys;
    this.#metrics = metrics;
    this.#onReached = onReached;
    this.router = new MessageRouter(store, {
      online: (clientId) => this.#holders.get(clientId),
      rightsOf: (clientId) => this.#rightsOf(keyIdOf(clientId)),
    });
    keys.onGone((keyId, why) => this.#onKeyGone(keyId, why));
    metrics.gauge('downlink_mqtt_programs', 'Programs that are connected over MQTT', () => this.#holders.size);
    metrics.gauge('downlink_mqtt_sessions', 'Sessions of programs that outlive their connections', () => store.sessions);
    metrics.gauge(
      'downlink_mqtt_queued_messages',
      'Messages that wait for programs, or for their word',
      () => store.queues.messages,
    );
    metrics.gauge('downlink_mqtt_queued_bytes', 'Their octets', () => store.queues.bytes);
    metrics.gauge('downlink_mqtt_retained_messages', 'Retained messages', () => store.retained.size);
    metrics.gauge('downlink_mqtt_retained_bytes', 'Their octets', () => store.retained.bytes);
  }

  /** Publishes what programs left as their wills when the server stopped or died. Before anybody connects. */
  async start(): Promise<void> {
    for (const will of this.store.wills.all()) {
      const { clientId = '', topic = '', payload = '', qos = 0, retain = false } = will;
      const rights = this.#rightsOf(keyIdOf(clientId));
      if (rights !== undefined && mayPublish(rights, topic)) await this.router.route({ topic, payload, qos, retain });
      await this.store.wills.delete(clientId);
    }
  }

  /** What a program's client id is among all: none has one given by another key, and no device id has a slash. Undefined: it is too long. */
  static clientIdOf(keyId: string, given: string): string | undefined {
    if (given.length > CLIENT_ID_CHARS_MAX) return undefined;
    return `${keyId}${SEPARATOR}${given === '' ? `auto-${randomUUID()}` : given}`;
  }

  static isProgram(clientId: string | undefined): boolean {
    return clientId?.includes(SEPARATOR) === true;
  }

  of(client: object | null): ProgramSession | undefined {
    return client === null ? undefined : this.#sessions.get(client);
  }

  /** Whether there is room for its session; the connection that holds its client id is closed before this resolves. */
  async admit(client: Client, { id, mqtt }: OperatorKey): Promise<boolean> {
    if (mqtt === undefined || (!client.clean && !this.store.hasRoomFor(client.id))) return false;
    const session = new ProgramSession(client, { id, rights: mqtt }, this.store, this.#onReached);
    const holder = this.#holders.get(client.id);
    this.#sessions.set(client, session);
    this.#holders.set(client.id, session);
    // aedes would deliver by itself.
    const deliver = (_: unknown, done: () => void): void => done();
    Object.assign(client, { deliver0: deliver, deliverQoS: deliver });
    if (holder !== undefined) await closed(holder.client);
    return true;
  }

  /** The session as it is when the connection begins; true when there was one [MQTT-3.2.2-2]. */
  async begin(clientId: string, isClean: boolean): Promise<boolean> {
    const session = this.#holders.get(clientId);
    if (isClean) {
      await this.store.begin(clientId);
      return false;
    }
    const isPresent = this.store.has(clientId);
    await this.store.keep(clientId);
    for (const { topic } of this.store.subscriptions.of(clientId)) session?.granted.add(topic);
    return isPresent;
  }

  end(session: ProgramSession): void {
    session.end();
    if (this.#holders.get(session.id) !== session) return;
    this.#holders.delete(session.id);
    if (session.client.clean) void this.store.forget(session.id).catch(() => {});
    else this.store.seen(session.id);
  }

  /** What aedes acknowledges when `done` is called without an error. */
  authorizePublish(session: ProgramSession, packet: PublishPacket, done: (error?: Error | null) => void): void {
    if (session.isCut) return done(new Error('the key is gone, or the server stops'));
    session.replies.run(
      () => this.#take(session, packet).catch((error: Error) => error),
      (error) => done(error),
    );
  }

  async #take(session: ProgramSession, packet: PublishPacket): Promise<Error | null> {
    const { topic, payload, qos, retain } = packet;
    const { messageId } = packet as { messageId?: number };
    if (!mayPublish(session.key.rights, topic)) {
      this.#metrics.rejects.inc({ transport: 'mqtt', code: 'foreign_topic' });
      return null;
    }
    const message: RoutedMessage = { topic, payload, qos, retain };
    if (qos < 2 || messageId === undefined) await this.router.route(message);
    else if (this.store.inbound.find(session.id, messageId) !== undefined)
      await this.store.inbound.settled(session.id, messageId);
    else if (this.store.inbound.count(session.id) >= this.store.bounds.receivedMessagesMax) {
      this.#onReached('receivedMessagesMax', session.id);
      return new Error(`${this.store.bounds.receivedMessagesMax} messages await their PUBREL`);
    } else await this.router.route(message, { received: { clientId: session.id, messageId } });
    return null;
  }

  /** PUBREL: when the disk refuses, PUBCOMP is not sent, and the program releases again over its next connection. */
  async release(client: Client, packet: GivenPacket): Promise<void> {
    await this.store.incomingDelPacket(client, packet).catch((error: unknown) => {
      this.of(client)?.cut();
      throw error;
    });
  }

  /** PUBREC of a message that went out: resolves when PUBREL may. A connection that has come meanwhile has waited for it. */
  async received(client: Client, messageId: number): Promise<void> {
    await this.of(client)?.received(messageId);
    this.#holders.get(client.id)?.pump();
  }

  authorizeSubscribe(session: ProgramSession, subscription: Subscription): boolean {
    const { topic } = subscription;
    // What was subscribed to by an earlier connection is in the store.
    if (!session.isRegistered) return false;
    if (!maySubscribe(session.key.rights, topic)) {
      this.#metrics.rejects.inc({ transport: 'mqtt', code: 'foreign_topic' });
      return false;
    }
    if (!session.granted.has(topic) && session.granted.size >= this.store.bounds.subscriptionsMax) {
      this.#onReached('subscriptionsMax', session.id);
      return false;
    }
    session.granted.add(topic);
    // At once: what the client publishes right behind its SUBSCRIBE comes to it as well.
    if (session.client.clean) this.store.subscriptions.add(session.id, { topic, qos: subscription.qos });
    return true;
  }

  /** After SUBACK: QoS 128 is what was refused. */
  subscribed(session: ProgramSession, subscriptions: readonly Subscription[]): void {
    for (const { topic, qos } of subscriptions) {
      if (qos > 2) continue;
      session.wantRetained(this.store.retained.topics(topic), qos);
    }
  }

  unsubscribed(session: ProgramSession, topics: readonly string[]): void {
    for (const topic of topics) {
      session.granted.delete(topic);
      if (session.client.clean && this.#holders.get(session.id) === session) this.store.subscriptions.remove(session.id, topic);
    }
  }

  /** Takes what a device or the server published to who follows it, once what it is committed `along` with is durable; null when that is done. */
  async follow(message: RoutedMessage, along?: Promise<unknown>): Promise<Error | null> {
    if (!this.isFollowed(message.topic)) return null;
    return this.router.route(message, { along }).then(
      () => null,
      (error: Error) => error,
    );
  }

  /** Whether anybody is there for what is published to the topic. */
  isFollowed(topic: string): boolean {
    return this.store.subscriptions.clients > 0 && this.store.subscriptions.matching(topic).length > 0;
  }

  /** Forgets sessions that nobody came back to. */
  async sweep(): Promise<void> {
    await this.store.sweep((clientId) => this.#holders.has(clientId));
  }

  /** Lets what was taken be acknowledged, then closes; wills stay for the next start. Closing twice is harmless. */
  async close(until: number): Promise<void> {
    this.#isClosing = true;
    const sessions = [...this.#holders.values()];
    while (sessions.some(({ replies }) => replies.outstanding > 0) && Date.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    for (const session of sessions) session.cut();
  }

  get keepsWills(): boolean {
    return this.#isClosing;
  }

  #onKeyGone(keyId: string, why: string): void {
    for (const session of this.#holders.values()) if (session.key.id === keyId) session.cut();
    if (why !== 'revoked') return;
    for (const clientId of this.store.ids()) {
      if (keyIdOf(clientId) === keyId) void this.store.forget(clientId).catch(() => {});
    }
  }

  #rightsOf(keyId: string): TopicRights | undefined {
    return this.#keys.has(keyId) ? this.#keys.get(keyId).mqtt : undefined;
  }
}

function keyIdOf(clientId: string): string {
  return clientId.slice(0, clientId.indexOf(SEPARATOR));
}

/** Resolves when aedes has let go of the connection: until then it would take its successor for it. */
async function closed(client: Client): Promise<void> {
  await new Promise<void>((resolve) => client.close(resolve));
  await new Promise(setImmediate);
}
