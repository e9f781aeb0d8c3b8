import type { State } from '../../store/state.ts';
import { valuesUnder } from '../../store/values.ts';
import { keyPart, packetFrom, packetText, storedPacket, textOfKeyPart } from './stored-packet.ts';
import type { GivenPacket, StoredPacket } from './stored-packet.ts';

/** QoS 2 messages that programs sent and are yet to release: one that comes again is the same message [MQTT-4.3.3-2], after a restart as well. */
const PREFIX = 'mqtt/inbound/';

export class InboundMessages {
  readonly #state: State;
  readonly #isKept: (clientId: string) => boolean;
  readonly #messages = new Map<string, Map<number, StoredPacket>>();

  constructor(state: State, isKept: (clientId: string) => boolean) {
    this.#state = state;
    this.#isKept = isKept;
  }

  async load(): Promise<void> {
    for await (const [key, kept] of valuesUnder<StoredPacket & { payload: string }>(this.#state, PREFIX)) {
      const [client = '', messageId] = key.slice(PREFIX.length).split('/');
      this.#of(textOfKeyPart(client)).set(Number(messageId), packetFrom(kept));
    }
  }

  count(clientId: string): number {
    return this.#messages.get(clientId)?.size ?? 0;
  }

  find(clientId: string, messageId: number): StoredPacket | undefined {
    return this.#messages.get(clientId)?.get(messageId);
  }

  /** The promise of its durability, where there is something to wait for. */
  store(clientId: string, messageId: number, given: GivenPacket): Promise<void> | undefined {
    const packet = { ...storedPacket(given), messageId };
    this.#of(clientId).set(messageId, packet);
    if (!this.#isKept(clientId)) return undefined;
    return this.#state.commit([{ put: keyOf(clientId, messageId), value: packetText(packet) }], []);
  }

  /** As if it had never come: its commit failed. */
  discard(clientId: string, messageId: number): boolean {
    const own = this.#messages.get(clientId);
    const isThere = own?.delete(messageId) ?? false;
    if (own?.size === 0) this.#messages.delete(clientId);
    return isThere;
  }

  /** Undefined when there is none. Otherwise the id is durably free when it resolves. */
  release(clientId: string, messageId: number): Promise<void> | undefined {
    if (!this.discard(clientId, messageId)) return undefined;
    return this.#isKept(clientId) ? this.#state.commit([{ del: keyOf(clientId, messageId) }], []) : Promise.resolve();
  }

  forget(clientId: string): Promise<void> | undefined {
    const ids = [...(this.#messages.get(clientId)?.keys() ?? [])];
    this.#messages.delete(clientId);
    if (ids.length === 0 || !this.#isKept(clientId)) return undefined;
    return this.#state.commit(
      ids.map((messageId) => ({ del: keyOf(clientId, messageId) })),
      [],
    );
  }

  #of(clientId: string): Map<number, StoredPacket> {
    let own = this.#messages.get(clientId);
    if (own === undefined) {
      own = new Map();
      this.#messages.set(clientId, own);
    }
    return own;
  }
}

function keyOf(clientId: string, messageId: number): string {
  return `${PREFIX}${keyPart(clientId)}/${messageId}`;
}
