import { Type, type Static } from 'typebox';
import type { Clock } from '../../devices/clock.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { State } from '../store/state.ts';
import { valuesUnder } from '../store/values.ts';
import { newSecret, OPERATOR_KEY_PREFIX, type SecretDigests } from './secrets.ts';

/** Operators' keys and their roles. A key is shown once and kept as a digest. */

export const ROLES = ['viewer', 'operator', 'admin'] as const;
export const roleSchema = Type.Union([Type.Literal('viewer'), Type.Literal('operator'), Type.Literal('admin')], {
  description: 'viewer reads; operator also issues and cancels commands; admin also manages devices and keys',
});
export type Role = Static<typeof roleSchema>;

export type OperatorKey = {
  readonly id: string;
  readonly name: string;
  readonly role: Role;
  readonly createdAt: number;
};

type Kept = OperatorKey & { readonly digest: string };

const PREFIX = 'key/';
/** The id of the key that the first start makes, or that the environment sets. */
export const ADMIN_KEY_ID = 'admin';

export class OperatorKeys {
  readonly #state: State;
  readonly #digests: SecretDigests;
  readonly #clock: Clock;
  readonly #newId: () => string;
  readonly #keys = new Map<string, Kept>();
  readonly #idByDigest = new Map<string, string>();

  constructor(state: State, digests: SecretDigests, clock: Clock, newId: () => string) {
    this.#state = state;
    this.#digests = digests;
    this.#clock = clock;
    this.#newId = newId;
  }

  async load(): Promise<void> {
    for await (const [, kept] of valuesUnder<Kept>(this.#state, PREFIX)) this.#keep(kept);
  }

  get size(): number {
    return this.#keys.size;
  }

  has(id: string): boolean {
    return this.#keys.has(id);
  }

  get hasAdmin(): boolean {
    return this.#admins() > 0;
  }

  /** The key this text is, if it is one. */
  find(secret: string): OperatorKey | undefined {
    const id = this.#idByDigest.get(this.#digests.digest(secret));
    return id === undefined ? undefined : this.#keys.get(id);
  }

  /** Keys by id, after the id `after`. */
  list(options: { limit: number; after?: string | undefined }): OperatorKey[] {
    const { after } = options;
    const ids = [...this.#keys.keys()].toSorted().filter((id) => after === undefined || id > after);
    return ids.slice(0, options.limit).flatMap((id) => {
      const kept = this.#keys.get(id);
      return kept === undefined ? [] : [publicPart(kept)];
    });
  }

  async create(given: { name: string; role: Role }): Promise<{ key: OperatorKey; secret: string }> {
    const secret = newSecret(OPERATOR_KEY_PREFIX);
    const kept = await this.#save({ ...given, id: this.#newId(), createdAt: this.#clock.now() }, secret);
    return { key: publicPart(kept), secret };
  }

  /** Makes `secret` the key with the id `admin`, in place of one that was there. */
  async setAdmin(secret: string): Promise<void> {
    const had = this.#keys.get(ADMIN_KEY_ID);
    if (had !== undefined && this.#digests.matches(secret, had.digest)) return;
    await this.#save({ id: ADMIN_KEY_ID, name: 'first admin', role: 'admin', createdAt: this.#clock.now() }, secret);
  }

  /** Throws `unknown_key`, and `last_admin_key` rather than lock everyone out. */
  async revoke(id: string): Promise<void> {
    const kept = this.#keys.get(id);
    if (kept === undefined) throw new DownlinkError('unknown_key', `no key has the id ${id}`);
    if (kept.role === 'admin' && this.#admins() === 1) {
      throw new DownlinkError('last_admin_key', 'this is the last admin key; make another before you revoke it');
    }
    this.#forget(kept);
    try {
      await this.#state.commit([{ del: PREFIX + id }], []);
    } catch (error) {
      this.#keep(kept);
      throw error;
    }
  }

  #admins(): number {
    return [...this.#keys.values()].filter(({ role }) => role === 'admin').length;
  }

  async #save(key: OperatorKey, secret: string): Promise<Kept> {
    const kept = { ...key, digest: this.#digests.digest(secret) };
    await this.#state.commit([{ put: PREFIX + key.id, value: JSON.stringify(kept) }], []);
    this.#keep(kept);
    return kept;
  }

  #keep(kept: Kept): void {
    const had = this.#keys.get(kept.id);
    if (had !== undefined) this.#forget(had);
    this.#keys.set(kept.id, kept);
    this.#idByDigest.set(kept.digest, kept.id);
  }

  #forget(kept: Kept): void {
    this.#keys.delete(kept.id);
    this.#idByDigest.delete(kept.digest);
  }
}

function publicPart({ id, name, role, createdAt }: Kept): OperatorKey {
  return { id, name, role, createdAt };
}
