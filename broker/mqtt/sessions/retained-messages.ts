import { TopicTree } from '../../../devices/topic-tree.ts';
import type { Change, State } from '../../store/state.ts';
import { valuesUnder } from '../../store/values.ts';
import type { OnReached, SessionBounds } from './session-bounds.ts';
import { keyPart, packetBytes, packetFrom, packetText, type GivenPacket, type StoredPacket } from './stored-packet.ts';

/** The last retained message of each topic, in memory and in State. */
const PREFIX = 'mqtt/retained/';

export class RetainedMessages {
  readonly #state: State;
  readonly #bounds: SessionBounds;
  readonly #onReached: OnReached;
  readonly #messages = new Map<string, GivenPacket>();
  readonly #topics = new TopicTree<string>();
  #bytes = 0;

  constructor(state: State, bounds: SessionBounds, onReached: OnReached) {
    this.#state = state;
    this.#bounds = bounds;
    this.#onReached = onReached;
  }

  async load(): Promise<void> {
    for await (const [, kept] of valuesUnder<StoredPacket & { payload: string }>(this.#state, PREFIX)) {
      const packet = packetFrom(kept);
      this.#put(packet.topic, packet);
    }
  }

  get size(): number {
    return this.#messages.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(topic: string): GivenPacket | undefined {
    return this.#messages.get(topic);
  }

  /** The topics with a retained message that the filter matches. */
  topics(filter: string): string[] {
    return this.#topics.ofFilter(filter);
  }

  /** The promise of its durability, where anything changes. An empty payload takes the topic's message away [MQTT-3.3.1-10]. */
  store(packet: GivenPacket): Promise<void> | undefined {
    const { topic = '', payload = '' } = packet;
    const change = payload.length === 0 ? this.#remove(topic) : this.#replace(topic, packet);
    return change && this.#state.commit([change], []);
  }

  #remove(topic: string): Change | undefined {
    if (!this.#messages.has(topic)) return undefined;
    this.#forget(topic);
    return { del: PREFIX + keyPart(topic) };
  }

  #replace(topic: string, packet: GivenPacket): Change | undefined {
    const before = this.#messages.get(topic);
    const bytes = this.#bytes + packetBytes(packet) - (before === undefined ? 0 : packetBytes(before));
    const bound = bytes > this.#bounds.retainedBytesMax ? 'retainedBytesMax' : 'retainedMessagesMax';
    const isOver = bound === 'retainedBytesMax' || (before === undefined && this.size >= this.#bounds.retainedMessagesMax);
    if (isOver) {
      this.#onReached(bound);
      // The old message is no longer the last one.
      return this.#remove(topic);
    }
    this.#put(topic, { ...packet });
    return { put: PREFIX + keyPart(topic), value: () => packetText(packet) };
  }

  #put(topic: string, packet: GivenPacket): void {
    this.#forget(topic);
    this.#messages.set(topic, packet);
    this.#topics.add(topic, topic);
    this.#bytes += packetBytes(packet);
  }

  #forget(topic: string): void {
    const before = this.#messages.get(topic);
    if (before === undefined) return;
    this.#messages.delete(topic);
    this.#topics.delete(topic, topic);
    this.#bytes -= packetBytes(before);
  }
}
