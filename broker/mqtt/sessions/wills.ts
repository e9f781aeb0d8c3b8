import type { State } from '../../store/state.ts';
import { valuesUnder } from '../../store/values.ts';
import { keyPart, packetText, textOfKeyPart, type GivenPacket } from './stored-packet.ts';

/** Wills of connected programs: what a server that stops or dies has not published, the next start publishes. */
export type Will = GivenPacket & { clientId?: string };
type Owner = { readonly closed?: boolean };
type Held = { readonly will: Will; readonly owner: Owner };

const PREFIX = 'mqtt/will/';

export class Wills {
  readonly #state: State;
  readonly #wills = new Map<string, Held>();

  constructor(state: State) {
    this.#state = state;
  }

  async load(): Promise<void> {
    for await (const [key, kept] of valuesUnder<Will & { payload: string }>(this.#state, PREFIX)) {
      const will = { ...kept, payload: Buffer.from(kept.payload, 'base64') };
      this.#wills.set(textOfKeyPart(key.slice(PREFIX.length)), { will, owner: {} });
    }
  }

  get(clientId: string): Will | undefined {
    return this.#wills.get(clientId)?.will;
  }

  all(): Will[] {
    return [...this.#wills.values()].map(({ will }) => will);
  }

  put(clientId: string, will: Will, owner: Owner): Promise<void> {
    this.#wills.set(clientId, { will, owner });
    return this.#state.commit([{ put: PREFIX + keyPart(clientId), value: packetText(will) }], []);
  }

  /** aedes takes away the will of the connection that ended after its successor's has been stored; that one stays. */
  async delete(clientId: string): Promise<Will | undefined> {
    const held = this.#wills.get(clientId);
    if (held === undefined || held.owner.closed === false) return undefined;
    this.#wills.delete(clientId);
    await this.#state.commit([{ del: PREFIX + keyPart(clientId) }], []);
    return held.will;
  }
}
