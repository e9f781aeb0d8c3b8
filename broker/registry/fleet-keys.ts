import type { Clock } from '../../devices/clock.ts';
import { SECOND_MS } from '../../devices/clock.ts';
import type { Device, DeviceLimits, Labels, Wake } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { assertWakeSchedule } from '../../devices/wake-schedule.ts';
import type { Limits } from '../limits/limits.ts';
import { NO_ADDITION, type Addition, type Change, type State } from '../store/state.ts';
import { valuesUnder } from '../store/values.ts';
import type { DeviceRegistry } from './device-registry.ts';
import { newSecret, type SecretDigests } from './secrets.ts';

/**
 * Fleet keys: with one of them new devices register themselves, each once, under its labels and up to its quota. A key is shown once and kept as a
 * digest; how many devices it has registered is written with each of them.
 */
export const FLEET_KEY_PREFIX = 'dlf_';

export type FleetKey = {
  readonly id: string;
  readonly name: string;
  /** Each of its devices gets these. */
  readonly labels: Labels;
  /** With what the ids of its devices begin. */
  readonly idPrefix?: string;
  /** How many devices it may register in all. */
  readonly quota: number;
  readonly registered: number;
  readonly expiresAt?: number;
  readonly wake?: Wake;
  readonly graceSeconds?: number;
  readonly limits?: DeviceLimits;
  readonly createdAt: number;
};

export type NewFleetKey = {
  readonly name: string;
  readonly labels?: Labels | undefined;
  readonly idPrefix?: string | undefined;
  readonly quota: number;
  readonly expiresAt?: number | undefined;
  readonly wake?: Wake | undefined;
  readonly graceSeconds?: number | undefined;
  readonly limits?: DeviceLimits | undefined;
};

/** What a device says of itself. */
export type Applicant = {
  readonly id: string;
  readonly name?: string;
  readonly labels?: Labels;
  readonly wake?: Wake;
};

type Kept = FleetKey & { readonly digest: string };

type FleetKeyLimits = Pick<Limits, 'bounds' | 'reached' | 'registrations'>;

const PREFIX = 'fleet-key/';

export class FleetKeys {
  readonly #state: State;
  readonly #digests: SecretDigests;
  readonly #registry: DeviceRegistry;
  readonly #clock: Clock;
  readonly #newId: () => string;
  readonly #keys = new Map<string, Kept>();
  readonly #idByDigest = new Map<string, string>();
  readonly #limits: FleetKeyLimits;

  constructor(
    state: State,
    digests: SecretDigests,
    registry: DeviceRegistry,
    clock: Clock,
    newId: () => string,
    limits: FleetKeyLimits,
  ) {
    this.#state = state;
    this.#digests = digests;
    this.#registry = registry;
    this.#clock = clock;
    this.#newId = newId;
    this.#limits = limits;
  }

  async load(): Promise<void> {
    for await (const [, kept] of valuesUnder<Kept>(this.#state, PREFIX)) this.#keep(kept);
  }

  /** The key this text is, if it is one that has not expired. */
  find(secret: string): FleetKey | undefined {
    if (!secret.startsWith(FLEET_KEY_PREFIX)) return undefined;
    const kept = this.#keys.get(this.#idByDigest.get(this.#digests.digest(secret)) ?? '');
    return kept === undefined || (kept.expiresAt ?? Number.POSITIVE_INFINITY) <= this.#clock.now() ? undefined : kept;
  }

  /** Keys by id, after the id `after`. */
  list(options: { limit: number; after?: string | undefined }): FleetKey[] {
    const { after = '' } = options;
    const ids = [...this.#keys.keys()].toSorted().filter((id) => id > after);
    return ids.slice(0, options.limit).flatMap((id) => {
      const kept = this.#keys.get(id);
      return kept === undefined ? [] : [publicPart(kept)];
    });
  }

  /** `also` is committed with it. Throws `invalid_request`, `quota_exhausted`. */
  async create(
    given: NewFleetKey,
    also: (key: FleetKey) => Addition = () => NO_ADDITION,
  ): Promise<{ key: FleetKey; secret: string }> {
    const { name, labels = {}, idPrefix, quota, expiresAt, wake, graceSeconds, limits } = given;
    const now = this.#clock.now();
    if (expiresAt !== undefined && expiresAt <= now) {
      throw new DownlinkError('invalid_request', 'expiresAt is past', { at: 'expiresAt' });
    }
    if (wake !== undefined) assertWakeSchedule(wake, now);
    const { fleet_keys: keysMax } = this.#limits.bounds;
    if (this.#keys.size >= keysMax) {
      this.#limits.reached('fleet_keys', { fleetKey: name });
      throw new DownlinkError('quota_exhausted', `there are ${keysMax} fleet keys, as many as the server keeps; revoke some`);
    }
    const secret = newSecret(FLEET_KEY_PREFIX);
    const kept: Kept = {
      id: this.#newId(),
      name,
      labels,
      ...(idPrefix !== undefined && { idPrefix }),
      quota,
      registered: 0,
      ...(expiresAt !== undefined && { expiresAt }),
      ...(wake !== undefined && { wake }),
      ...(graceSeconds !== undefined && { graceSeconds }),
      ...(limits !== undefined && { limits }),
      createdAt: now,
      digest: this.#digests.digest(secret),
    };
    const { changes, entries } = also(kept);
    // Before it is durable: of many at once none goes over the bound.
    this.#keep(kept);
    try {
      await this.#state.commit([put(kept), ...changes], entries, 'exempt');
    } catch (error) {
      this.#forget(kept);
      throw error;
    }
    return { key: publicPart(kept), secret };
  }

  /** Its devices stay as they are. `also` is committed with it. Throws `unknown_key`. */
  async revoke(id: string, also: Addition = NO_ADDITION): Promise<void> {
    const kept = this.#keys.get(id);
    if (kept === undefined) throw new DownlinkError('unknown_key', `no fleet key has the id ${id}`);
    this.#forget(kept);
    try {
      await this.#state.commit([{ del: PREFIX + id }, ...also.changes], also.entries, 'exempt');
    } catch (error) {
      this.#keep(kept);
      throw error;
    }
  }

  /**
   * Registers the device and gives its token, which is not kept. Throws `device_exists` for an id that was registered before, by whomever;
   * `forbidden` for an id or label that is not the key's to give, `quota_exhausted`, `rate_limited`, `invalid_request`.
   */
  async provision(
    keyId: string,
    applicant: Applicant,
    also: (device: Device) => Addition = () => NO_ADDITION,
  ): Promise<{ device: Device; token: string }> {
    const key = this.#keys.get(keyId);
    if (key === undefined) throw new DownlinkError('unauthorized', 'this fleet key was revoked');
    this.#assertMay(key, applicant);
    this.#takeAllowance(key);
    const { wake = key.wake } = applicant;
    // Counted first: of many at once none goes over the quota.
    this.#count(keyId, 1);
    try {
      const { graceSeconds, limits } = key;
      return await this.#registry.create(
        {
          ...applicant,
          labels: { ...applicant.labels, ...key.labels },
          ...(wake !== undefined && { wake }),
          ...(graceSeconds !== undefined && { graceSeconds }),
          ...(limits !== undefined && { limits }),
        },
        (device) => {
          const { changes, entries } = also(device);
          return { changes: [...this.#countChange(keyId), ...changes], entries };
        },
      );
    } catch (error) {
      this.#count(keyId, -1);
      throw error;
    }
  }

  #assertMay({ idPrefix = '', labels, quota, registered, name }: Kept, applicant: Applicant): void {
    if (!applicant.id.startsWith(idPrefix)) {
      throw new DownlinkError('forbidden', `id: the fleet key is for ids that begin with ${idPrefix}`, { at: 'id' });
    }
    for (const [label, value] of Object.entries(labels)) {
      const asked = applicant.labels?.[label];
      if (asked === undefined || asked === value) continue;
      const at = `labels.${label}`;
      throw new DownlinkError('forbidden', `${at} is set by the fleet key, and is another`, { at });
    }
    if (registered < quota) return;
    if (this.#registry.find(applicant.id) !== undefined) {
      throw new DownlinkError('device_exists', `a device with the id ${applicant.id} is registered`);
    }
    throw new DownlinkError('quota_exhausted', `the fleet key ${name} has registered its ${quota} devices`);
  }

  #takeAllowance({ id }: Kept): void {
    const { registrations, bounds } = this.#limits;
    const waitMs = registrations.tryTake(id);
    if (waitMs === 0) return;
    this.#limits.reached('registrations_per_second', { fleetKey: id });
    throw new DownlinkError(
      'rate_limited',
      `a fleet key registers ${bounds.registrations_per_second} devices a second at the most`,
      { retryAfterSeconds: Math.max(1, Math.ceil(waitMs / SECOND_MS)) },
    );
  }

  #count(keyId: string, change: 1 | -1): void {
    const kept = this.#keys.get(keyId);
    if (kept !== undefined) this.#keep({ ...kept, registered: kept.registered + change });
  }

  #countChange(keyId: string): Change[] {
    const kept = this.#keys.get(keyId);
    return kept === undefined ? [] : [put(kept)];
  }

  #keep(kept: Kept): void {
    this.#keys.set(kept.id, kept);
    this.#idByDigest.set(kept.digest, kept.id);
  }

  #forget({ id, digest }: Kept): void {
    this.#keys.delete(id);
    this.#idByDigest.delete(digest);
  }
}

function put(kept: Kept): Change {
  return { put: PREFIX + kept.id, value: JSON.stringify(kept) };
}

function publicPart(kept: Kept): FleetKey {
  const { digest: _, ...key } = kept;
  return key;
}
