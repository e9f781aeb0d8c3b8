import { createHash } from 'node:crypto';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { Change, State } from '../store/state.ts';
import type { Taken } from './device-messages.ts';

/**
 * QoS 2 messages that were taken and are yet to be released by PUBREL, on disk with what they brought: one that comes again with DUP, after a crash
 * as well, is the same message [MQTT-4.3.3-2]. Its content is compared too, since a device whose session is gone may have given the id to another one.
 */
const PREFIX = 'qos2/';

export type ReceivedMessage = {
  readonly messageId: number;
  readonly dup: boolean;
  readonly topic: string;
  readonly payload: Buffer;
};

type OnRefused = (deviceId: string, error: DownlinkError) => void;
type UnderWay = { readonly digest: string; readonly isTaken: Promise<boolean> };

export class ReceivedMessages {
  readonly #state: State;
  /** By device, since one that begins anew forgets its own: the digest of each key. */
  readonly #taken = new Map<string, Map<string, string>>();
  /** By device as well, and key. */
  readonly #underWay = new Map<string, Map<string, UnderWay>>();
  readonly #unreleasedMax: number;
  readonly #onRefused: OnRefused;

  /** `unreleasedMax`: of one device. */
  constructor(state: State, unreleasedMax: number, onRefused: OnRefused) {
    this.#state = state;
    this.#unreleasedMax = unreleasedMax;
    this.#onRefused = onRefused;
  }

  async load(): Promise<void> {
    for await (const [key, digest] of this.#state.scan(PREFIX)) keep(this.#taken, deviceOf(key), key, digest);
  }

  /**
   * Calls `take` with what it has to commit together with the message's content, unless the message was taken before: `repeat` then. Beyond the bound it
   * is `not_now`.
   */
  async once(
    deviceId: string,
    message: ReceivedMessage,
    take: (changes: readonly Change[]) => Promise<Taken>,
  ): Promise<Taken | 'repeat'> {
    const key = keyOf(deviceId, message.messageId);
    const digest = digestOf(message);
    if (message.dup) {
      const underWay = this.#underWay.get(deviceId)?.get(key);
      if (underWay?.digest === digest && (await underWay.isTaken)) return 'repeat';
      if (this.#taken.get(deviceId)?.get(key) === digest) return 'repeat';
    }
    if (!this.#hasRoom(deviceId, key)) {
      const error = new DownlinkError(
        'rate_limited',
        `${this.#unreleasedMax} messages with QoS 2 await their PUBREL: the connection is closed`,
      );
      this.#onRefused(deviceId, error);
      return { outcome: 'not_now', error };
    }
    const taking = take([{ put: key, value: digest }]);
    const mine: UnderWay = { digest, isTaken: taking.then(({ outcome }) => outcome === 'taken') };
    keep(this.#underWay, deviceId, key, mine);
    const taken = await taking;
    if (this.#underWay.get(deviceId)?.get(key) === mine) drop(this.#underWay, deviceId, key);
    if (taken.outcome === 'taken') keep(this.#taken, deviceId, key, digest);
    return taken;
  }

  /** PUBREL came: resolves once its id is durably free, so that another message may have it. */
  async release(deviceId: string, messageId: number): Promise<void> {
    const key = keyOf(deviceId, messageId);
    if (this.#taken.get(deviceId)?.has(key) !== true) return;
    await this.#state.commit([{ del: key }], []);
    drop(this.#taken, deviceId, key);
  }

  /** The device begins a new session: what it sends from now on is new. */
  async forget(deviceId: string): Promise<void> {
    const keys = [...(this.#taken.get(deviceId)?.keys() ?? [])];
    if (keys.length === 0) return;
    this.#taken.delete(deviceId);
    await this.#state.commit(
      keys.map((key) => ({ del: key })),
      [],
    );
  }

  #hasRoom(deviceId: string, key: string): boolean {
    const [taken, underWay] = [this.#taken.get(deviceId), this.#underWay.get(deviceId)];
    if (taken?.has(key) === true || underWay?.has(key) === true) return true;
    return (taken?.size ?? 0) + (underWay?.size ?? 0) < this.#unreleasedMax;
  }
}

function keep<T>(byDevice: Map<string, Map<string, T>>, deviceId: string, key: string, value: T): void {
  const own = byDevice.get(deviceId);
  if (own === undefined) byDevice.set(deviceId, new Map([[key, value]]));
  else own.set(key, value);
}

function drop<T>(byDevice: Map<string, Map<string, T>>, deviceId: string, key: string): void {
  const own = byDevice.get(deviceId);
  own?.delete(key);
  if (own?.size === 0) byDevice.delete(deviceId);
}

/** A device id has no slash. */
function deviceOf(key: string): string {
  return key.slice(PREFIX.length, key.indexOf('/', PREFIX.length));
}

function keyOf(deviceId: string, messageId: number): string {
  return `${PREFIX}${deviceId}/${messageId}`;
}

function digestOf({ topic, payload }: ReceivedMessage): string {
  return createHash('sha256').update(topic).update('\n').update(payload).digest('base64url');
}
