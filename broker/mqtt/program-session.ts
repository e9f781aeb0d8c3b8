import type { Client } from 'aedes';
import { mayReceive, type TopicRights } from '../../devices/topic-rights.ts';
import { OrderedReplies } from './ordered-replies.ts';
import { publishOctets, pubrelOctets } from './outgoing-packets.ts';
import type { Outgoing } from './sessions/outgoing-queues.ts';
import type { OnReached } from './sessions/session-bounds.ts';
import type { SessionStore } from './sessions/session-store.ts';
import type { GivenPacket } from './sessions/stored-packet.ts';

/**
 * One MQTT connection of a program. Its messages go out from its queue in order, some at a time, and again with DUP after it was away
 * [MQTT-4.4.0-1] [MQTT-4.6.0-6]; retained messages that a new subscription brings follow as there is room.
 */

/** Messages of one connection whose durability is awaited at a time. */
const ACKS_OUTSTANDING_MAX = 1_000;

export type ProgramKey = { readonly id: string; readonly rights: TopicRights };

export class ProgramSession {
  readonly key: ProgramKey;
  readonly client: Client;
  readonly replies = new OrderedReplies<Error | null>(ACKS_OUTSTANDING_MAX);
  /** The filters that it was granted, with their QoS. */
  readonly granted = new Set<string>();
  /** aedes has let it in: what it subscribes to from now on comes from it, and not from an earlier connection. */
  isRegistered = false;
  /** The key is gone, or the server stops: nothing more is taken, and no will. */
  isCut = false;
  readonly #store: SessionStore;
  readonly #onReached: OnReached;
  readonly #inFlight = new Map<number, Outgoing>();
  /** Topics whose retained message it is yet to get, and with which QoS at most. */
  readonly #retained = new Map<string, number>();
  #isOpen = false;
  /** A bound keeps something back that would go out. */
  #isHeldBack = false;
  #sentThrough = 0;

  constructor(client: Client, key: ProgramKey, store: SessionStore, onReached: OnReached) {
    this.client = client;
    this.key = key;
    this.#store = store;
    this.#onReached = onReached;
  }

  get id(): string {
    return this.client.id;
  }

  /** After CONNACK: what is queued goes out. */
  open(): void {
    this.#isOpen = true;
    this.client.conn.on('drain', () => this.pump());
    this.pump();
  }

  mayReceive(topic: string): boolean {
    return mayReceive(this.key.rights, topic);
  }

  /** With QoS 0: now or never. */
  send(packet: GivenPacket, retain: boolean): void {
    if (!this.#isOpen) return;
    if (this.#hasBacklog) return this.#onReached('backlogBytesMax', this.id);
    this.#publish(packet, { qos: 0, retain, dup: false });
  }

  /** Sends what is queued, as far as there is room for it on the way. */
  pump(): void {
    if (!this.#isOpen) return;
    const { queues } = this.#store;
    for (const entry of queues.of(this.id)) {
      if (entry.seq <= this.#sentThrough) continue;
      if (!entry.isDurable || !this.#hasRoom()) return;
      this.#sentThrough = entry.seq;
      const { packet } = entry;
      const { messageId = 0 } = packet;
      if (packet.cmd === 'pubrel') this.#write(pubrelOctets(messageId));
      else if (!this.mayReceive(packet.topic)) {
        queues.clear(this.id, messageId);
        continue;
      } else this.#publish(packet, { qos: packet.qos, retain: packet.retain, dup: queues.wasSent(this.id, entry), messageId });
      this.#inFlight.set(messageId, entry);
      queues.sent(this.id, entry);
    }
    this.#sendRetained();
  }

  /** The retained messages of these topics, as they will be when it is their turn. */
  wantRetained(topics: readonly string[], qos: number): void {
    for (const topic of topics) this.#retained.set(topic, Math.max(qos, this.#retained.get(topic) ?? 0));
    this.pump();
  }

  /** PUBACK, or PUBCOMP: the message's way is at its end. Acknowledgements of anything else are let pass. */
  acknowledged(messageId: number, packet: 'puback' | 'pubcomp'): void {
    const entry = this.#inFlight.get(messageId);
    if (entry === undefined || (packet === 'puback') !== (entry.packet.cmd === 'publish' && entry.packet.qos === 1)) return;
    this.#inFlight.delete(messageId);
    this.#store.queues.clear(this.id, messageId);
    this.pump();
  }

  /** PUBREC: from now on PUBREL is what is sent again. Resolves when that is durable. */
  async received(messageId: number): Promise<void> {
    const entry = this.#inFlight.get(messageId);
    if (entry?.packet.cmd !== 'publish' || entry.packet.qos !== 2) return;
    await this.#store.queues.update(this.id, { cmd: 'pubrel', messageId });
  }

  /** The connection is over. Retained messages that it did not get are queued where the session goes on. */
  end(): void {
    this.#isOpen = false;
    if (this.client.clean) return;
    for (const [topic, qos] of this.#retained) this.#enqueueRetained(topic, qos);
    this.#retained.clear();
  }

  /** Closes the connection; its will is not published. */
  cut(): void {
    this.isCut = true;
    this.client.close();
  }

  get #hasBacklog(): boolean {
    return 'writableLength' in this.client.conn && this.client.conn.writableLength > this.#store.bounds.backlogBytesMax;
  }

  /** For what is next. Where there is none, that is told once, until all has gone out that was kept back. */
  #hasRoom(waiting = this.#inFlight.size): boolean {
    const isInFlight = waiting >= this.#store.bounds.inFlightMax;
    if (!isInFlight && !this.#hasBacklog) return true;
    if (!this.#isHeldBack) this.#onReached(isInFlight ? 'inFlightMax' : 'backlogBytesMax', this.id);
    this.#isHeldBack = true;
    return false;
  }

  #sendRetained(): void {
    for (const [topic, qos] of this.#retained) {
      if (!this.#hasRoom(Math.max(this.#inFlight.size, this.#store.queues.count(this.id)))) return;
      this.#retained.delete(topic);
      const queued = this.#enqueueRetained(topic, qos);
      if (queued === undefined) continue;
      if (queued.durable === undefined) return this.pump();
      queued.durable.then(
        () => this.pump(),
        () => {},
      );
    }
    this.#isHeldBack = false;
  }

  /** With QoS 0 it is sent at once. */
  #enqueueRetained(topic: string, qosMax: number): ReturnType<SessionStore['queues']['enqueue']> {
    const packet = this.#store.retained.get(topic);
    if (packet === undefined || !this.mayReceive(topic)) return undefined;
    const qos = Math.min(packet.qos ?? 0, qosMax);
    if (qos > 0) return this.#store.queues.enqueue(this.id, { ...packet, qos, retain: true }, { withMessageId: true });
    if (this.#isOpen) this.#publish(packet, { qos, retain: true, dup: false });
    return undefined;
  }

  #publish(
    { topic = '', payload = '' }: GivenPacket,
    how: { qos: number; retain: boolean; dup: boolean; messageId?: number },
  ): void {
    this.#write(publishOctets({ topic, payload, ...how }));
  }

  #write(octets: Buffer): void {
    if (!this.client.closed) this.client.conn.write(octets);
  }
}
