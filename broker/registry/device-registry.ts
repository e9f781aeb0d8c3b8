import type { Clock } from '../../devices/clock.ts';
import { GRACE_SECONDS_DEFAULT, type Device, type DeviceLimits, type Labels, type Wake } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { assertWakeSchedule } from '../../devices/wake-schedule.ts';
import { NO_ADDITION, type Addition, type State } from '../store/state.ts';
import { valuesUnder } from '../store/values.ts';
import { DEVICE_TOKEN_PREFIX, newSecret, type SecretDigests } from './secrets.ts';

/** Who may speak as what: the devices, their labels and schedules, and the digests of their tokens. All in memory, durable in State. */

export type NewDevice = {
  readonly id: string;
  readonly name?: string;
  readonly labels?: Labels;
  readonly wake?: Wake;
  readonly graceSeconds?: number;
  readonly limits?: DeviceLimits;
};

/** A field given as null is taken away; one left out stays. `limits` and `labels` are replaced whole. */
export type DeviceChange = {
  readonly name?: string | null;
  readonly labels?: Labels;
  readonly wake?: Wake | null;
  readonly graceSeconds?: number;
  readonly limits?: DeviceLimits;
};

/** Without a digest the device's token was revoked: no credential of its opens anything until it is given a new one. */
type Registered = { readonly device: Device; readonly tokenDigest?: string };

/** Told after a device's credential is gone: its connections are to be cut. */
export type CredentialListener = (deviceId: string, why: 'deleted' | 'rotated' | 'revoked') => void;

/** What is to be committed together with a change. */
type Also = (device: Device) => Addition;
const NOTHING: Also = () => NO_ADDITION;

const PREFIX = 'device/';

export class DeviceRegistry {
  readonly #state: State;
  readonly #digests: SecretDigests;
  readonly #clock: Clock;
  readonly #devices = new Map<string, Registered>();
  readonly #idByDigest = new Map<string, string>();
  readonly #listeners: CredentialListener[] = [];
  #sortedIds: string[] | undefined;

  constructor(state: State, digests: SecretDigests, clock: Clock) {
    this.#state = state;
    this.#digests = digests;
    this.#clock = clock;
  }

  async load(): Promise<void> {
    for await (const [, registered] of valuesUnder<Registered>(this.#state, PREFIX)) this.#keep(registered);
  }

  onCredentialGone(listener: CredentialListener): void {
    this.#listeners.push(listener);
  }

  get size(): number {
    return this.#devices.size;
  }

  find(id: string): Device | undefined {
    return this.#devices.get(id)?.device;
  }

  /** Throws `unknown_device`. */
  get(id: string): Device {
    const device = this.find(id);
    if (device === undefined) throw new DownlinkError('unknown_device', `no device has the id ${id}`);
    return device;
  }

  /** The device whose token this is. */
  deviceOfToken(token: string): Device | undefined {
    return this.deviceOfDigest(this.#digests.digest(token));
  }

  deviceOfDigest(digest: string): Device | undefined {
    const id = this.#idByDigest.get(digest);
    return id === undefined ? undefined : this.find(id);
  }

  /** Undefined for a device without a token. */
  tokenDigestOf(id: string): string | undefined {
    return this.#devices.get(id)?.tokenDigest;
  }

  isTokenOf(id: string, token: string): boolean {
    const digest = this.#devices.get(id)?.tokenDigest;
    return digest !== undefined && this.#digests.matches(token, digest);
  }

  /** Its token was taken away and no new one made. Asked also where something else than a token lets it in. */
  isRevoked(id: string): boolean {
    const registered = this.#devices.get(id);
    return registered !== undefined && registered.tokenDigest === undefined;
  }

  /** Devices by id, after the id `after`; `labels` must all match. One more than `limit` tells the caller that there is more. */
  list(options: { limit: number; after?: string | undefined; labels?: Labels | undefined }): Device[] {
    this.#sortedIds ??= [...this.#devices.keys()].toSorted();
    const wanted = Object.entries(options.labels ?? {});
    const found: Device[] = [];
    for (let i = firstAfter(this.#sortedIds, options.after); i < this.#sortedIds.length && found.length < options.limit; i += 1) {
      const device = this.find(this.#sortedIds[i] ?? '');
      if (device && wanted.every(([name, value]) => device.labels[name] === value)) found.push(device);
    }
    return found;
  }

  ids(): IterableIterator<string> {
    return this.#devices.keys();
  }

  /** Registers a device and gives its token, which is not kept. Throws `device_exists`, or `invalid_request` for a bad schedule. */
  async create(given: NewDevice, also: Also = NOTHING): Promise<{ device: Device; token: string }> {
    if (this.#devices.has(given.id)) throw new DownlinkError('device_exists', `a device with the id ${given.id} is registered`);
    const now = this.#clock.now();
    if (given.wake) assertWakeSchedule(given.wake, now);
    const device: Device = {
      id: given.id,
      ...(given.name !== undefined && { name: given.name }),
      labels: given.labels ?? {},
      ...(given.wake !== undefined && { wake: given.wake }),
      graceSeconds: given.graceSeconds ?? GRACE_SECONDS_DEFAULT,
      limits: given.limits ?? {},
      createdAt: now,
      updatedAt: now,
    };
    const token = newSecret(DEVICE_TOKEN_PREFIX);
    await this.#save({ device, tokenDigest: this.#digests.digest(token) }, also(device));
    return { device, token };
  }

  /** Throws `unknown_device`, or `invalid_request` for a bad schedule. */
  async change(id: string, change: DeviceChange, also: Also = NOTHING): Promise<Device> {
    const { name, wake, ...had } = this.get(id);
    const now = this.#clock.now();
    if (change.wake) assertWakeSchedule(change.wake, now);
    const newName = change.name === undefined ? name : change.name;
    const newWake = change.wake === undefined ? wake : change.wake;
    const device: Device = {
      ...had,
      ...(newName != null && { name: newName }),
      ...(newWake != null && { wake: newWake }),
      ...(change.labels !== undefined && { labels: change.labels }),
      ...(change.graceSeconds !== undefined && { graceSeconds: change.graceSeconds }),
      ...(change.limits !== undefined && { limits: change.limits }),
      updatedAt: now,
    };
    await this.#save({ ...this.#devices.get(id), device }, also(device));
    return device;
  }

  /** A new token in place of the old one, which is refused from now on. Throws `unknown_device`. */
  async rotateToken(id: string, also: Also = NOTHING): Promise<{ device: Device; token: string }> {
    const device = this.get(id);
    const token = newSecret(DEVICE_TOKEN_PREFIX);
    await this.#save({ device, tokenDigest: this.#digests.digest(token) }, also(device));
    for (const listener of this.#listeners) listener(id, 'rotated');
    return { device, token };
  }

  /** Takes the token away: the device stays, and lets nobody in as itself until `rotateToken`. Throws `unknown_device`. */
  async revokeToken(id: string, also: Also = NOTHING): Promise<Device> {
    const device = this.get(id);
    if (this.isRevoked(id)) return device;
    await this.#save({ device }, also(device));
    for (const listener of this.#listeners) listener(id, 'revoked');
    return device;
  }

  /** Throws `unknown_device`. */
  async delete(id: string, also: Also = NOTHING): Promise<void> {
    const { changes, entries } = also(this.get(id));
    await this.#state.commit([{ del: PREFIX + id }, ...changes], entries, 'exempt');
    this.#forget(id);
    for (const listener of this.#listeners) listener(id, 'deleted');
  }

  async #save(registered: Registered, also: Addition): Promise<void> {
    const { id } = registered.device;
    const before = this.#devices.get(id);
    // Taken before it is durable, so that two requests at once cannot both register one id; given back if it does not become so.
    this.#keep(registered);
    try {
      const changes = [{ put: PREFIX + id, value: JSON.stringify(registered) }, ...also.changes];
      await this.#state.commit(changes, also.entries, 'exempt');
    } catch (error) {
      this.#forget(id);
      if (before !== undefined) this.#keep(before);
      throw error;
    }
  }

  #keep(registered: Registered): void {
    const { id } = registered.device;
    if (this.#devices.has(id)) this.#forget(id);
    this.#devices.set(id, registered);
    if (registered.tokenDigest !== undefined) this.#idByDigest.set(registered.tokenDigest, id);
    this.#sortedIds = undefined;
  }

  #forget(id: string): void {
    const registered = this.#devices.get(id);
    if (registered === undefined) return;
    this.#devices.delete(id);
    if (registered.tokenDigest !== undefined) this.#idByDigest.delete(registered.tokenDigest);
    this.#sortedIds = undefined;
  }
}

/** Index of the first id after `after` in sorted `ids`. */
function firstAfter(ids: readonly string[], after: string | undefined): number {
  if (after === undefined) return 0;
  let low = 0;
  let high = ids.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ids[middle] ?? '') <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}
