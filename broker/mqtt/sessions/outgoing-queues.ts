import type { Change, State } from '../../store/state.ts';
import { valuesUnder } from '../../store/values.ts';
import type { OnReached, SessionBounds } from './session-bounds.ts';
import { keyPart, packetBytes, packetFrom, packetText, storedPacket, textOfKeyPart } from './stored-packet.ts';
import type { GivenPacket, StoredPacket } from './stored-packet.ts';

/**
 * What waits for each program with QoS 1 or 2, until it is acknowledged. A message gets its message id when it is queued, in the same commit, so
 * that it goes out with the same one after a crash as well [MQTT-4.4.0-1]; how far a queue was sent is written with whatever is written next.
 */
export type Outgoing = {
  readonly seq: number;
  readonly bytes: number;
  packet: StoredPacket;
  /** It may go out. */
  isDurable: boolean;
};

type Queue = {
  readonly entries: Map<number, Outgoing>;
  readonly messageIds: Set<number>;
  /** Everything up to this was handed to a connection once: what is sent of it again is marked DUP. */
  sentThrough: number;
  lastSeq: number;
  lastMessageId: number;
};

const QUEUE = 'mqtt/queue/';
const SENT = 'mqtt/sent/';
const SEQ_DIGITS = 16;
const MESSAGE_ID_MAX = 65_535;

export class OutgoingQueues {
  readonly #state: State;
  readonly #bounds: SessionBounds;
  readonly #onReached: OnReached;
  /** Whether the session outlives its connection: its queue is in State then. */
  readonly #isKept: (clientId: string) => boolean;
  readonly #queues = new Map<string, Queue>();
  #messages = 0;
  #bytes = 0;

  constructor(state: State, bounds: SessionBounds, onReached: OnReached, isKept: (clientId: string) => boolean) {
    this.#state = state;
    this.#bounds = bounds;
    this.#onReached = onReached;
    this.#isKept = isKept;
  }

  async load(): Promise<void> {
    for await (const [key, kept] of valuesUnder<StoredPacket & { payload: string }>(this.#state, QUEUE)) {
      const [client = '', seq] = key.slice(QUEUE.length).split('/');
      const packet = packetFrom(kept);
      this.#put(this.#queueOf(textOfKeyPart(client)), { seq: Number(seq), packet, bytes: packetBytes(packet), isDurable: true });
    }
    for await (const [key, sentThrough] of valuesUnder<number>(this.#state, SENT)) {
      const queue = this.#queueOf(textOfKeyPart(key.slice(SENT.length)));
      queue.sentThrough = sentThrough;
      queue.lastSeq = Math.max(queue.lastSeq, sentThrough);
    }
  }

  get messages(): number {
    return this.#messages;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Oldest first. */
  of(clientId: string): IterableIterator<Outgoing> {
    return (this.#queues.get(clientId)?.entries ?? new Map<number, Outgoing>()).values();
  }

  count(clientId: string): number {
    return this.#queues.get(clientId)?.entries.size ?? 0;
  }

  wasSent(clientId: string, { seq }: Outgoing): boolean {
    return seq <= (this.#queues.get(clientId)?.sentThrough ?? 0);
  }

  /**
   * The entry, with a message id where one is wanted, and the promise of its durability where there is something to wait for; undefined when a
   * bound leaves no room for it.
   */
  enqueue(
    clientId: string,
    given: GivenPacket,
    { withMessageId = false } = {},
  ): { entry: Outgoing; durable: Promise<void> | undefined } | undefined {
    const packet = storedPacket(given);
    const bytes = packetBytes(packet);
    const queue = this.#queueOf(clientId);
    const changes: Change[] = [];
    if (!this.#makeRoom(clientId, queue, bytes, changes)) return undefined;
    if (withMessageId) packet.messageId = nextMessageId(queue);
    const entry: Outgoing = { seq: queue.lastSeq + 1, packet, bytes, isDurable: !this.#isKept(clientId) };
    this.#put(queue, entry);
    changes.push({ put: keyOf(clientId, entry.seq), value: () => packetText(entry.packet) });
    const durable = this.#commit(clientId, changes)?.then(() => {
      entry.isDurable = true;
    });
    return { entry, durable };
  }

  /** As if it had never been queued: its commit failed. */
  discard(clientId: string, { seq }: Outgoing): void {
    const queue = this.#queues.get(clientId);
    if (queue !== undefined) this.#take(queue, seq);
  }

  sent(clientId: string, { seq }: Outgoing): void {
    const queue = this.#queues.get(clientId);
    if (queue === undefined || seq <= queue.sentThrough) return;
    queue.sentThrough = seq;
    if (!this.#isKept(clientId)) return;
    this.#state.ride([{ put: SENT + keyPart(clientId), value: () => String(queue.sentThrough) }], []).catch(() => {});
  }

  /**
   * A PUBLISH gets its message id; a PUBREL takes the place of the PUBLISH with its id, durably, before it goes out [MQTT-4.3.3-1]. Throws when
   * there is no such message.
   */
  async update(clientId: string, packet: GivenPacket): Promise<void> {
    for (const entry of this.of(clientId)) {
      const isSame = entry.packet.brokerId === packet.brokerId && entry.packet.brokerCounter === packet.brokerCounter;
      if (packet.cmd !== 'pubrel' && !isSame) continue;
      if (packet.cmd === 'pubrel' && entry.packet.messageId !== packet.messageId) continue;
      const before = entry.packet;
      if (packet.cmd === 'pubrel') entry.packet = packet as StoredPacket;
      else entry.packet.messageId = packet.messageId;
      const written = this.#commit(clientId, [{ put: keyOf(clientId, entry.seq), value: () => packetText(entry.packet) }]);
      if (written === undefined) return undefined;
      entry.isDurable = false;
      return written
        .catch((error: unknown) => {
          entry.packet = before;
          throw error;
        })
        .finally(() => {
          entry.isDurable = true;
        });
    }
    throw new Error('no such packet');
  }

  /** Takes out the message that the acknowledgement with this id is of. A crash may bring it back, and with it a repeat, which is harmless. */
  clear(clientId: string, messageId: number | undefined): StoredPacket | undefined {
    const queue = this.#queues.get(clientId);
    if (queue === undefined) return undefined;
    for (const { seq, packet } of queue.entries.values()) {
      if (packet.messageId !== messageId) continue;
      this.#take(queue, seq);
      if (this.#isKept(clientId)) this.#state.ride([{ del: keyOf(clientId, seq) }], []).catch(() => {});
      return packet;
    }
    return undefined;
  }

  forget(clientId: string): Promise<void> | undefined {
    const queue = this.#queues.get(clientId);
    if (queue === undefined) return undefined;
    this.#queues.delete(clientId);
    const seqs = [...queue.entries.keys()];
    for (const seq of seqs) this.#take(queue, seq);
    if (!this.#isKept(clientId) || (seqs.length === 0 && queue.sentThrough === 0)) return undefined;
    return this.#state.commit([{ del: SENT + keyPart(clientId) }, ...seqs.map((seq) => ({ del: keyOf(clientId, seq) }))], []);
  }

  #makeRoom(clientId: string, queue: Queue, bytes: number, changes: Change[]): boolean {
    const bound = (): keyof SessionBounds | undefined => {
      if (queue.entries.size >= this.#bounds.queuedMessagesMax) return 'queuedMessagesMax';
      return this.#bytes + bytes > this.#bounds.queuedBytesMax ? 'queuedBytesMax' : undefined;
    };
    for (let over = bound(); over !== undefined; over = bound()) {
      this.#onReached(over, clientId);
      const oldest = firstUnsent(queue);
      if (oldest === undefined) return false;
      this.#take(queue, oldest.seq);
      changes.push({ del: keyOf(clientId, oldest.seq) });
    }
    return true;
  }

  #commit(clientId: string, changes: readonly Change[]): Promise<void> | undefined {
    return this.#isKept(clientId) ? this.#state.commit(changes, []) : undefined;
  }

  #queueOf(clientId: string): Queue {
    let queue = this.#queues.get(clientId);
    if (queue === undefined) {
      queue = { entries: new Map(), messageIds: new Set(), sentThrough: 0, lastSeq: 0, lastMessageId: 0 };
      this.#queues.set(clientId, queue);
    }
    return queue;
  }

  #put(queue: Queue, entry: Outgoing): void {
    const { messageId } = entry.packet;
    queue.entries.set(entry.seq, entry);
    queue.lastSeq = entry.seq;
    if (messageId !== undefined) {
      queue.messageIds.add(messageId);
      queue.lastMessageId = messageId;
    }
    this.#messages += 1;
    this.#bytes += entry.bytes;
  }

  #take(queue: Queue, seq: number): void {
    const entry = queue.entries.get(seq);
    if (entry === undefined) return;
    queue.entries.delete(seq);
    if (entry.packet.messageId !== undefined) queue.messageIds.delete(entry.packet.messageId);
    this.#messages -= 1;
    this.#bytes -= entry.bytes;
  }
}

function firstUnsent(queue: Queue): Outgoing | undefined {
  for (const entry of queue.entries.values()) if (entry.seq > queue.sentThrough) return entry;
  return undefined;
}

/** A queue is far shorter than there are ids. */
function nextMessageId(queue: Queue): number {
  do queue.lastMessageId = (queue.lastMessageId % MESSAGE_ID_MAX) + 1;
  while (queue.messageIds.has(queue.lastMessageId));
  return queue.lastMessageId;
}

function keyOf(clientId: string, seq: number): string {
  return `${QUEUE}${keyPart(clientId)}/${String(seq).padStart(SEQ_DIGITS, '0')}`;
}
