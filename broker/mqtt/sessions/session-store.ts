import { Readable } from 'node:stream';
import type { Clock } from '../../../devices/clock.ts';
import type { Change, State } from '../../store/state.ts';
import { valuesUnder } from '../../store/values.ts';
import { InboundMessages } from './inbound-messages.ts';
import { OutgoingQueues } from './outgoing-queues.ts';
import { RetainedMessages } from './retained-messages.ts';
import { SESSION_BOUNDS, type OnReached, type SessionBounds } from './session-bounds.ts';
import { keyPart, type GivenPacket, type StoredPacket } from './stored-packet.ts';
import { Subscriptions, type ClientSubscription, type Subscribed } from './subscriptions.ts';
import { Wills, type Will } from './wills.ts';

/**
 * What MQTT has to remember for programs: sessions with their subscriptions and queues, retained messages, wills. All in memory and, but for what
 * belongs to a clean session, in State; each call resolves once that is durable. It is a persistence for aedes, and passes aedes-persistence's tests.
 */
export type SessionStoreOptions = {
  readonly state: State;
  readonly clock: Clock;
  readonly bounds?: SessionBounds;
  readonly onReached?: OnReached;
};

type ClientId = { readonly id: string; readonly closed?: boolean };
type Broker = { readonly id: string };
/** As it is in State. */
type KeptSession = { readonly id: string; readonly seenAt: number; readonly subscriptions: readonly Subscribed[] };

const PREFIX = 'mqtt/session/';
/** Of the time after which a session is forgotten: so old may be what is written of one that is connected. */
const SEEN_ANEW_AFTER = 0.1;

export class SessionStore {
  readonly retained: RetainedMessages;
  readonly queues: OutgoingQueues;
  readonly inbound: InboundMessages;
  readonly wills: Wills;
  readonly subscriptions = new Subscriptions();
  readonly bounds: SessionBounds;
  readonly #state: State;
  readonly #clock: Clock;
  readonly #onReached: OnReached;
  /** Sessions that outlive their connections, and when each was last seen. */
  readonly #sessions = new Map<string, number>();
  /** Clients whose session ends with their connection. */
  readonly #transient = new Set<string>();
  #broker: Broker = { id: '' };

  constructor({ state, clock, bounds = SESSION_BOUNDS, onReached = () => {} }: SessionStoreOptions) {
    const isKept = (clientId: string): boolean => !this.#transient.has(clientId);
    this.#state = state;
    this.#clock = clock;
    this.bounds = bounds;
    this.#onReached = onReached;
    this.retained = new RetainedMessages(state, bounds, onReached);
    this.queues = new OutgoingQueues(state, bounds, onReached, isKept);
    this.inbound = new InboundMessages(state, isKept);
    this.wills = new Wills(state);
  }

  async load(): Promise<void> {
    for await (const [, { id, seenAt, subscriptions }] of valuesUnder<KeptSession>(this.#state, PREFIX)) {
      this.#sessions.set(id, seenAt);
      for (const subscription of subscriptions) this.subscriptions.add(id, subscription);
    }
    await Promise.all([this.retained.load(), this.queues.load(), this.inbound.load(), this.wills.load()]);
  }

  get sessions(): number {
    return this.#sessions.size;
  }

  has(clientId: string): boolean {
    return this.#sessions.has(clientId);
  }

  ids(): string[] {
    return [...this.#sessions.keys()];
  }

  /** Whether there is room for a session of this client; counted when there is none. */
  hasRoomFor(clientId: string): boolean {
    if (this.has(clientId) || this.sessions < this.bounds.sessionsMax) return true;
    this.#onReached('sessionsMax', clientId);
    return false;
  }

  /** Begins a session that outlives its connection, or goes on with it; durable when it resolves. */
  keep(clientId: string): Promise<void> {
    this.#transient.delete(clientId);
    this.#sessions.set(clientId, this.#clock.now());
    return this.#save(clientId);
  }

  /** The session is seen, which is written with what is written next. */
  seen(clientId: string): void {
    if (!this.has(clientId)) return;
    this.#sessions.set(clientId, this.#clock.now());
    this.#state.ride([this.#change(clientId)], []).catch(() => {});
  }

  /** Begins a session that ends with its connection, in place of any other of the client [MQTT-3.1.2-6]. */
  begin(clientId: string): Promise<void> {
    const gone = this.forget(clientId);
    this.#transient.add(clientId);
    return gone;
  }

  /** The end of a session: subscriptions, queue and what is half received. Its will is another matter. */
  async forget(clientId: string): Promise<void> {
    const wasKept = this.#sessions.delete(clientId);
    this.subscriptions.removeAll(clientId);
    const queue = this.queues.forget(clientId);
    const inbound = this.inbound.forget(clientId);
    this.#transient.delete(clientId);
    const session = wasKept ? this.#state.commit([{ del: PREFIX + keyPart(clientId) }], []) : undefined;
    // Commits of one turn become durable together.
    await (session ?? queue ?? inbound);
  }

  /** Forgets sessions that nobody came back to; `isOnline` ones are seen: after a crash their absence counts from here, not from when they came. */
  async sweep(isOnline: (clientId: string) => boolean): Promise<void> {
    const now = this.#clock.now();
    const before = now - this.bounds.sessionUnseenMsMax;
    const notLately = now - this.bounds.sessionUnseenMsMax * SEEN_ANEW_AFTER;
    for (const [id, seenAt] of this.#sessions) {
      if (isOnline(id)) {
        if (seenAt < notLately) this.seen(id);
      } else if (seenAt < before) {
        this.#onReached('sessionUnseenMsMax', id);
        await this.forget(id);
      }
    }
  }

  #save(clientId: string): Promise<void> {
    return this.#state.commit([this.#change(clientId)], []);
  }

  #change(clientId: string): Change {
    const value = (): string => {
      const seenAt = this.#sessions.get(clientId) ?? this.#clock.now();
      return JSON.stringify({ id: clientId, seenAt, subscriptions: this.subscriptions.of(clientId) } satisfies KeptSession);
    };
    return { put: PREFIX + keyPart(clientId), value };
  }

  // From here on as aedes asks for it.

  async setup(broker: Broker): Promise<void> {
    this.#broker = broker;
  }

  get broker(): Broker {
    return this.#broker;
  }

  async addSubscriptions(client: ClientId, subscriptions: readonly Subscribed[]): Promise<void> {
    for (const subscription of subscriptions) this.subscriptions.add(client.id, subscription);
    if (!this.#transient.has(client.id)) await this.keep(client.id);
  }

  async removeSubscriptions(client: ClientId, topics: readonly string[]): Promise<void> {
    for (const topic of topics) this.subscriptions.remove(client.id, topic);
    if (this.has(client.id)) await this.#save(client.id);
  }

  async cleanSubscriptions(client: ClientId): Promise<void> {
    this.subscriptions.removeAll(client.id);
    if (this.has(client.id)) await this.#save(client.id);
  }

  async subscriptionsByClient(client: ClientId): Promise<Subscribed[]> {
    return this.subscriptions.of(client.id);
  }

  /** Those with QoS 1 or 2: for the others nothing is queued. */
  async subscriptionsByTopic(topic: string): Promise<ClientSubscription[]> {
    return this.subscriptions.matching(topic).filter(({ qos }) => qos > 0);
  }

  async countOffline(): Promise<{ subsCount: number; clientsCount: number }> {
    return { subsCount: this.subscriptions.withQos, clientsCount: this.subscriptions.clients };
  }

  getClientList(topic: string): Readable {
    return Readable.from(this.subscriptions.clientsOf(topic));
  }

  async storeRetained(packet: GivenPacket): Promise<void> {
    await this.retained.store(packet);
  }

  createRetainedStream(pattern: string): Readable {
    return this.createRetainedStreamCombi([pattern]);
  }

  createRetainedStreamCombi(patterns: readonly string[]): Readable {
    const topics = new Set(patterns.flatMap((pattern) => this.retained.topics(pattern)));
    return Readable.from([...topics].map((topic) => this.retained.get(topic)));
  }

  async outgoingEnqueue({ clientId }: { readonly clientId: string }, packet: GivenPacket): Promise<void> {
    await this.queues.enqueue(clientId, packet)?.durable;
  }

  async outgoingEnqueueCombi(subscriptions: readonly { readonly clientId: string }[], packet: GivenPacket): Promise<void> {
    await Promise.all(subscriptions.map((subscription) => this.outgoingEnqueue(subscription, packet)));
  }

  async outgoingUpdate(client: ClientId, packet: GivenPacket): Promise<void> {
    await this.queues.update(client.id, packet);
  }

  async outgoingClearMessageId(client: ClientId, packet: GivenPacket): Promise<StoredPacket | undefined> {
    return this.queues.clear(client.id, packet.messageId);
  }

  outgoingStream(client: ClientId): Readable {
    return Readable.from([...this.queues.of(client.id)].map(({ packet }) => packet));
  }

  async incomingStorePacket(client: ClientId, packet: GivenPacket): Promise<void> {
    await this.inbound.store(client.id, packet.messageId ?? 0, packet);
  }

  async incomingGetPacket(client: ClientId, packet: GivenPacket): Promise<StoredPacket> {
    await this.inbound.settled(client.id, packet.messageId ?? 0);
    const found = this.inbound.find(client.id, packet.messageId ?? 0);
    if (found === undefined) throw new Error('no such packet');
    return found;
  }

  async incomingDelPacket(client: ClientId, packet: GivenPacket): Promise<void> {
    const released = this.inbound.release(client.id, packet.messageId ?? 0);
    if (released === undefined) throw new Error('no such packet');
    await released;
  }

  async cleanIncoming(client: ClientId): Promise<void> {
    await this.inbound.forget(client.id);
  }

  async putWill(client: ClientId, will: Will): Promise<void> {
    await this.wills.put(client.id, Object.assign(will, { brokerId: this.#broker.id, clientId: client.id }), client);
  }

  async getWill(client: ClientId): Promise<Will | undefined> {
    return this.wills.get(client.id);
  }

  async delWill(client: ClientId): Promise<Will | undefined> {
    return this.wills.delete(client.id);
  }

  streamWill(brokers: Readonly<Record<string, unknown>> = {}): Readable {
    return Readable.from(this.wills.all().filter(({ brokerId }) => brokers[brokerId ?? ''] === undefined));
  }

  /** State is the server's to close. */
  async destroy(): Promise<void> {}
}
