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
  /** By key, what is being written of it. */
  readonly #underWay = new Map<string, Promise<void>>();

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
    const key = keyOf(clientId, messageId);
    return this.#follow(key, this.#state.commit([{ put: key, value: packetText(packet) }], []));
  }

  /**
   * Resolves once what is known here of the message is durable, and rejects when it could not be written: who comes with it again meanwhile, over another
   * connection, is told nothing that a crash would undo.
   */
  async settled(clientId: string, messageId: number): Promise<void> {
    await this.#underWay.get(keyOf(clientId, messageId));
  }

  /** As if it had never come: its commit failed. */
  discard(clientId: string, messageId: number): boolean {
    const own = this.#messages.get(clientId);
    const isThere = own?.delete(messageId) ?? false;
    if (own?.size === 0) this.#messages.delete(clientId);
    return isThere;
  }

  /** Undefined when there is none. Otherwise the id is durably free when it resolves, and as it was when it rejects. */
  release(clientId: string, messageId: number): Promise<void> | undefined {
    const packet = this.find(clientId, messageId);
    if (packet === undefined) return undefined;
    this.discard(clientId, messageId);
    if (!this.#isKept(clientId)) return Promise.resolve();
    const key = keyOf(clientId, messageId);
    const released = this.#state.commit([{ del: key }], []).catch((error: unknown) => {
      this.#of(clientId).set(messageId, packet);
      throw error;
    });
    return this.#follow(key, released);
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

  #follow(key: string, commit: Promise<void>): Promise<void> {
    const written = commit.finally(() => {
      if (this.#underWay.get(key) === written) this.#underWay.delete(key);
    });
    this.#underWay.set(key, written);
    return written;
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
