import { mayReceive, type TopicRights } from '../../devices/topic-rights.ts';
import type { ProgramSession } from './program-session.ts';
import type { SessionStore } from './sessions/session-store.ts';
import type { GivenPacket } from './sessions/stored-packet.ts';

/**
 * Takes a message to all programs that subscribe to its topic: once to each, with the highest QoS of its matching subscriptions [MQTT-3.3.5-1]. What is to
 * be kept of it becomes durable with one commit; it goes out after that, in the order in which messages came.
 */
export type RoutedMessage = {
  readonly topic: string;
  readonly payload: Buffer | string;
  readonly qos: number;
  readonly retain: boolean;
};

/** A QoS 2 message that is yet to be released, noted in the same commit. */
export type Received = { readonly clientId: string; readonly messageId: number };

export type RouteOptions = {
  readonly received?: Received;
  /** Committed in this turn as well: nothing goes out before it is durable, and nothing is kept when it is not. */
  readonly along?: Promise<unknown> | undefined;
};

type Sessions = {
  online(clientId: string): ProgramSession | undefined;
  /** Of a program that is away; undefined when its key is gone. */
  rightsOf(clientId: string): TopicRights | undefined;
};

type Taken = { readonly deliveries: (() => void)[]; readonly durables: Promise<unknown>[]; readonly undo: (() => void)[] };

export class MessageRouter {
  readonly #store: SessionStore;
  readonly #sessions: Sessions;
  /** Messages whose commit is under way; what comes after them goes out after them. */
  #underWay = 0;
  #last: Promise<void> = Promise.resolve();

  constructor(store: SessionStore, sessions: Sessions) {
    this.#store = store;
    this.#sessions = sessions;
  }

  /** Resolves when what is to be kept of the message is durable; rejects when it is not, and then nothing of it is left. */
  async route(message: RoutedMessage, { received, along }: RouteOptions = {}): Promise<void> {
    const taken = this.#take(message, received);
    if (along !== undefined) taken.durables.push(along);
    if (taken.durables.length === 0 && this.#underWay === 0) {
      for (const deliver of taken.deliveries) deliver();
      return;
    }
    this.#underWay += 1;
    const before = this.#last;
    const settled = this.#settle(taken, before).finally(() => {
      this.#underWay -= 1;
    });
    this.#last = settled.catch(() => {});
    await settled;
  }

  async #settle({ durables, deliveries, undo }: Taken, before: Promise<void>): Promise<void> {
    try {
      await Promise.all(durables);
    } catch (error) {
      for (const step of undo) step();
      throw error;
    } finally {
      await before;
    }
    for (const deliver of deliveries) deliver();
  }

  /** All of it in one turn, so that it is one commit. */
  #take(message: RoutedMessage, received: Received | undefined): Taken {
    const taken: Taken = { deliveries: [], durables: [], undo: [] };
    const { topic, payload, qos, retain } = message;
    const packet: GivenPacket = { cmd: 'publish', topic, payload, qos, retain: false, dup: false };
    if (received !== undefined) this.#note(received, packet, taken);
    if (retain) {
      const kept = this.#store.retained.store({ ...packet, retain: true });
      if (kept !== undefined) taken.durables.push(kept);
    }
    for (const [clientId, qosMax] of this.#subscribers(topic)) {
      this.#deliver(clientId, { ...packet, qos: Math.min(qos, qosMax) }, taken);
    }
    return taken;
  }

  #note({ clientId, messageId }: Received, { topic, qos }: GivenPacket, taken: Taken): void {
    const { inbound } = this.#store;
    const noted = inbound.store(clientId, messageId, { cmd: 'publish', topic: topic ?? '', qos: qos ?? 0 });
    taken.undo.push(() => inbound.discard(clientId, messageId));
    if (noted !== undefined) taken.durables.push(noted);
  }

  #deliver(clientId: string, packet: GivenPacket, taken: Taken): void {
    const session = this.#sessions.online(clientId);
    const rights = session?.key.rights ?? this.#sessions.rightsOf(clientId);
    if (rights === undefined || !mayReceive(rights, packet.topic ?? '')) return;
    if (packet.qos === 0) {
      if (session !== undefined) taken.deliveries.push(() => session.send(packet, false));
      return;
    }
    const queued = this.#store.queues.enqueue(clientId, packet, { withMessageId: true });
    if (queued === undefined) return;
    const { entry, durable } = queued;
    if (durable !== undefined) taken.durables.push(durable);
    taken.undo.push(() => this.#store.queues.discard(clientId, entry));
    taken.deliveries.push(() => this.#sessions.online(clientId)?.pump());
  }

  #subscribers(topic: string): Map<string, number> {
    const subscribers = new Map<string, number>();
    for (const { clientId, qos } of this.#store.subscriptions.matching(topic)) {
      subscribers.set(clientId, Math.max(qos, subscribers.get(clientId) ?? 0));
    }
    return subscribers;
  }
}
