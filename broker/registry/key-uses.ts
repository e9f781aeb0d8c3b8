import type { Clock } from '../../devices/clock.ts';
import type { Change, State } from '../store/state.ts';
import { valuesUnder } from '../store/values.ts';

/** When each key was last used and from where: in memory, and now and then written to State for all together, since it changes with every request. */
type Use = { readonly lastUsedAt: number; readonly lastUsedFrom: string };

const PREFIX = 'key-use/';
const FROM_CHARS_MAX = 64;

export class KeyUses {
  readonly #state: State;
  readonly #clock: Clock;
  readonly #uses = new Map<string, Use>();
  readonly #unsaved = new Set<string>();

  constructor(state: State, clock: Clock) {
    this.#state = state;
    this.#clock = clock;
  }

  async load(): Promise<void> {
    for await (const [key, use] of valuesUnder<Use>(this.#state, PREFIX)) this.#uses.set(key.slice(PREFIX.length), use);
  }

  of(id: string): Use | undefined {
    return this.#uses.get(id);
  }

  used(id: string, from: string): void {
    this.#uses.set(id, { lastUsedAt: this.#clock.now(), lastUsedFrom: from.slice(0, FROM_CHARS_MAX) });
    this.#unsaved.add(id);
  }

  /** What takes it out of State, to be committed with the key's end. */
  forget(id: string): Change[] {
    this.#uses.delete(id);
    this.#unsaved.delete(id);
    return [{ del: PREFIX + id }];
  }

  async save(): Promise<void> {
    const ids = [...this.#unsaved];
    if (ids.length === 0) return;
    this.#unsaved.clear();
    try {
      await this.#state.commit(
        ids.map((id) => ({ put: PREFIX + id, value: JSON.stringify(this.#uses.get(id)) })),
        [],
      );
    } catch (error) {
      for (const id of ids) if (this.#uses.has(id)) this.#unsaved.add(id);
      throw error;
    }
  }
}
