import { createHash } from 'node:crypto';
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

type UnderWay = { readonly digest: string; readonly isTaken: Promise<boolean> };

export class ReceivedMessages {
  readonly #state: State;
  /** By device, since one that begins anew forgets its own: the digest of each key. */
  readonly #taken = new Map<string, Map<string, string>>();
  readonly #underWay = new Map<string, UnderWay>();

  constructor(state: State) {
    this.#state = state;
  }

  async load(): Promise<void> {
    for await (const [key, digest] of this.#state.scan(PREFIX)) this.#keep(deviceOf(key), key, digest);
  }

  /**
   * Calls `take` with what it has to commit together with the message's content, unless the message was taken before: `repeat` then.
   */
  async once(
    deviceId: string,
    message: ReceivedMessage,
    take: (changes: readonly Change[]) => Promise<Taken>,
  ): Promise<Taken | 'repeat'> {
    const key = keyOf(deviceId, message.messageId);
    const digest = digestOf(message);
    if (message.dup) {
      const underWay = this.#underWay.get(key);
      if (underWay?.digest === digest && (await underWay.isTaken)) return 'repeat';
      if (this.#taken.get(deviceId)?.get(key) === digest) return 'repeat';
    }
    const taking = take([{ put: key, value: digest }]);
    const mine: UnderWay = { digest, isTaken: taking.then(({ outcome }) => outcome === 'taken') };
    this.#underWay.set(key, mine);
    const taken = await taking;
    if (this.#underWay.get(key) === mine) this.#underWay.delete(key);
    if (taken.outcome === 'taken') this.#keep(deviceId, key, digest);
    return taken;
  }

  /** PUBREL came: resolves once its id is durably free, so that another message may have it. */
  async release(deviceId: string, messageId: number): Promise<void> {
    const key = keyOf(deviceId, messageId);
    if (this.#taken.get(deviceId)?.has(key) !== true) return;
    await this.#state.commit([{ del: key }], []);
    const left = this.#taken.get(deviceId);
    left?.delete(key);
    if (left?.size === 0) this.#taken.delete(deviceId);
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

  #keep(deviceId: string, key: string, digest: string): void {
    const taken = this.#taken.get(deviceId);
    if (taken === undefined) this.#taken.set(deviceId, new Map([[key, digest]]));
    else taken.set(key, digest);
  }
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
