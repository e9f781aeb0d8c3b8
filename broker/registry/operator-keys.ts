import { Type, type Static } from 'typebox';
import { MINUTE_MS, type Clock } from '../../devices/clock.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { Deadlines } from '../deadlines.ts';
import type { Limits } from '../limits/limits.ts';
import { NO_ADDITION, type Addition, type State } from '../store/state.ts';
import { valuesUnder } from '../store/values.ts';
import { KeyUses } from './key-uses.ts';
import { assertMqttRights, type MqttRights } from './mqtt-rights.ts';
import { newSecret, OPERATOR_KEY_PREFIX, type SecretDigests } from './secrets.ts';

/** Operators' keys: role, expiry, rights on MQTT, last use. A key is shown once and kept as a digest. */

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
  /** Refused from then on, epoch milliseconds; absent: never. */
  readonly expiresAt?: number;
  /** What it may do over MQTT; absent: it cannot log in there. */
  readonly mqtt?: MqttRights;
  readonly lastUsedAt?: number;
  /** The address it was last used from. */
  readonly lastUsedFrom?: string;
};

export type NewKey = {
  readonly name: string;
  readonly role: Role;
  readonly expiresAt?: number | undefined;
  readonly mqtt?: MqttRights | undefined;
};

/** A field given as null is taken away; one left out stays. */
export type KeyChange = {
  readonly name?: string | undefined;
  readonly role?: Role | undefined;
  readonly expiresAt?: number | null | undefined;
  readonly mqtt?: MqttRights | null | undefined;
};

/** Told when a key is no longer what a connection was opened with: what holds on to it lets go. */
export type KeyListener = (keyId: string, why: 'revoked' | 'expired' | 'changed') => void;

type Kept = Omit<OperatorKey, 'lastUsedAt' | 'lastUsedFrom'> & { readonly digest: string };

type KeyLimits = Pick<Limits, 'bounds' | 'reached'>;

const PREFIX = 'key/';
const SAVE_USES_EVERY_MS = MINUTE_MS;
/** The id of the key that the first start makes, or that the environment sets. */
export const ADMIN_KEY_ID = 'admin';

export class OperatorKeys {
  readonly #state: State;
  readonly #digests: SecretDigests;
  readonly #clock: Clock;
  readonly #newId: () => string;
  readonly #limits: KeyLimits;
  readonly #keys = new Map<string, Kept>();
  readonly #idByDigest = new Map<string, string>();
  readonly #listeners: KeyListener[] = [];
  readonly #deadlines: Deadlines;
  readonly #uses: KeyUses;
  #saving: NodeJS.Timeout | undefined;

  constructor(state: State, digests: SecretDigests, clock: Clock, newId: () => string, limits: KeyLimits) {
    this.#state = state;
    this.#digests = digests;
    this.#clock = clock;
    this.#newId = newId;
    this.#limits = limits;
    this.#uses = new KeyUses(state, clock);
    this.#deadlines = new Deadlines(clock, (id) => this.#tell(id, 'expired'));
  }

  async load(): Promise<void> {
    for await (const [, kept] of valuesUnder<Kept>(this.#state, PREFIX)) this.#keep(kept);
    await this.#uses.load();
    this.#saving = setInterval(() => void this.#uses.save().catch(() => {}), SAVE_USES_EVERY_MS).unref();
  }

  /** Saves when keys were last used. */
  async close(): Promise<void> {
    clearInterval(this.#saving);
    this.#deadlines.close();
    await this.#uses.save();
  }

  onGone(listener: KeyListener): void {
    this.#listeners.push(listener);
  }

  get size(): number {
    return this.#keys.size;
  }

  has(id: string): boolean {
    return this.#keys.has(id);
  }

  /** There is an admin key that does not expire: nobody is locked out by the time that passes. */
  get hasAdmin(): boolean {
    return this.#lastingAdmins() > 0;
  }

  /** The key this text is, if it is one that has not expired. */
  find(secret: string): OperatorKey | undefined {
    const id = this.#idByDigest.get(this.#digests.digest(secret));
    const kept = id === undefined ? undefined : this.#keys.get(id);
    return kept === undefined || hasExpired(kept, this.#clock.now()) ? undefined : kept;
  }

  /** Remembers that the key was used now; written to disk once a minute, for all keys together. */
  used(id: string, from: string): void {
    if (this.#keys.has(id)) this.#uses.used(id, from);
  }

  /** Throws `unknown_key`. */
  get(id: string): OperatorKey {
    return this.#publicPart(this.#get(id));
  }

  /** Keys by id, after the id `after`. */
  list(options: { limit: number; after?: string | undefined }): OperatorKey[] {
    const { after } = options;
    const ids = [...this.#keys.keys()].toSorted().filter((id) => after === undefined || id > after);
    return ids.slice(0, options.limit).flatMap((id) => {
      const kept = this.#keys.get(id);
      return kept === undefined ? [] : [this.#publicPart(kept)];
    });
  }

  /** `also` is committed with it. Throws `invalid_request` for an expiry that is past or rights that are none, `quota_exhausted`. */
  async create(
    { name, role, expiresAt, mqtt }: NewKey,
    also: (key: OperatorKey) => Addition = () => NO_ADDITION,
  ): Promise<{ key: OperatorKey; secret: string }> {
    this.#assertFuture(expiresAt);
    if (mqtt !== undefined) assertMqttRights(mqtt);
    const { operator_keys: keysMax } = this.#limits.bounds;
    if (this.#keys.size >= keysMax) {
      this.#limits.reached('operator_keys', { key: name });
      throw new DownlinkError('quota_exhausted', `there are ${keysMax} keys, as many as the server keeps; revoke some`);
    }
    const secret = newSecret(OPERATOR_KEY_PREFIX);
    const kept = {
      id: this.#newId(),
      name,
      role,
      createdAt: this.#clock.now(),
      ...(expiresAt !== undefined && { expiresAt }),
      ...(mqtt !== undefined && { mqtt }),
      digest: this.#digests.digest(secret),
    };
    await this.#save(kept, also(kept));
    return { key: this.#publicPart(kept), secret };
  }

  /** `also` is committed with it. Throws `unknown_key`, `last_admin_key`, `invalid_request`. */
  async change(id: string, change: KeyChange, also: (key: OperatorKey) => Addition = () => NO_ADDITION): Promise<OperatorKey> {
    const had = this.#get(id);
    const { expiresAt: expired, mqtt: hadMqtt, ...rest } = had;
    if (change.expiresAt != null) this.#assertFuture(change.expiresAt);
    if (change.mqtt != null) assertMqttRights(change.mqtt);
    const expiresAt = change.expiresAt === undefined ? expired : change.expiresAt;
    const mqtt = change.mqtt === undefined ? hadMqtt : change.mqtt;
    const kept: Kept = {
      ...rest,
      name: change.name ?? had.name,
      role: change.role ?? had.role,
      ...(expiresAt != null && { expiresAt }),
      ...(mqtt != null && { mqtt }),
    };
    if (isLastingAdmin(had) && !isLastingAdmin(kept)) this.#assertNotLast('it expires or gets a lesser role');
    await this.#save(kept, also(kept));
    // What it opened was opened with other rights.
    if (kept.role !== had.role || change.mqtt !== undefined) this.#tell(id, 'changed');
    return this.#publicPart(kept);
  }

  /** Makes `secret` the key with the id `admin`, in place of one that was there. */
  async setAdmin(secret: string): Promise<void> {
    const had = this.#keys.get(ADMIN_KEY_ID);
    if (had !== undefined && isLastingAdmin(had) && this.#digests.matches(secret, had.digest)) return;
    const digest = this.#digests.digest(secret);
    await this.#save({ id: ADMIN_KEY_ID, name: 'first admin', role: 'admin', createdAt: this.#clock.now(), digest }, NO_ADDITION);
  }

  /** `also` is committed with it. Throws `unknown_key`, and `last_admin_key` rather than lock everyone out. */
  async revoke(id: string, also: Addition = NO_ADDITION): Promise<void> {
    const kept = this.#get(id);
    if (isLastingAdmin(kept)) this.#assertNotLast('you revoke it');
    this.#forget(kept);
    const use = this.#uses.forget(id);
    try {
      await this.#state.commit([{ del: PREFIX + id }, ...use, ...also.changes], also.entries, 'exempt');
    } catch (error) {
      this.#keep(kept);
      throw error;
    }
    this.#tell(id, 'revoked');
  }

  #get(id: string): Kept {
    const kept = this.#keys.get(id);
    if (kept === undefined) throw new DownlinkError('unknown_key', `no key has the id ${id}`);
    return kept;
  }

  #lastingAdmins(): number {
    return [...this.#keys.values()].filter(isLastingAdmin).length;
  }

  #assertNotLast(before: string): void {
    if (this.#lastingAdmins() > 1) return;
    throw new DownlinkError('last_admin_key', `this is the last admin key that does not expire; make another before ${before}`);
  }

  #assertFuture(expiresAt: number | undefined): void {
    if (expiresAt === undefined || expiresAt > this.#clock.now()) return;
    throw new DownlinkError('invalid_request', 'expiresAt is past', { at: 'expiresAt' });
  }

  /** Taken before it is durable, so that of two changes at once neither is lost; given back if it does not become so. */
  async #save(kept: Kept, also: Addition): Promise<void> {
    const had = this.#keys.get(kept.id);
    this.#keep(kept);
    try {
      const changes = [{ put: PREFIX + kept.id, value: JSON.stringify(kept) }, ...also.changes];
      await this.#state.commit(changes, also.entries, 'exempt');
    } catch (error) {
      this.#forget(kept);
      if (had !== undefined) this.#keep(had);
      throw error;
    }
  }

  #tell(id: string, why: Parameters<KeyListener>[1]): void {
    for (const listener of this.#listeners) listener(id, why);
  }

  #keep(kept: Kept): void {
    const had = this.#keys.get(kept.id);
    if (had !== undefined) this.#forget(had);
    this.#keys.set(kept.id, kept);
    this.#idByDigest.set(kept.digest, kept.id);
    this.#deadlines.set(kept.id, kept.expiresAt);
  }

  #forget(kept: Kept): void {
    this.#keys.delete(kept.id);
    this.#idByDigest.delete(kept.digest);
    this.#deadlines.set(kept.id, undefined);
  }

  #publicPart(kept: Kept): OperatorKey {
    const { digest: _, ...key } = kept;
    return { ...key, ...this.#uses.of(key.id) };
  }
}

function isLastingAdmin({ role, expiresAt }: Pick<OperatorKey, 'role' | 'expiresAt'>): boolean {
  return role === 'admin' && expiresAt === undefined;
}

function hasExpired({ expiresAt }: Pick<OperatorKey, 'expiresAt'>, now: number): boolean {
  return expiresAt !== undefined && expiresAt <= now;
}
