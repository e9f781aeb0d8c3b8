import { hash } from 'node:crypto';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { Sample } from '../../devices/telemetry.ts';
import type { Change, State } from '../store/state.ts';
import { valueAt } from '../store/values.ts';

/**
 * The Idempotency-Keys under which devices sent telemetry: a message that comes again under its key, since its answer was lost, is stored once. The last few
 * of each device are kept, durable with the readings they came with. Devices that use none cost nothing.
 */
const KEYS_KEPT = 16;
const PREFIX = 'telemetry-keys/';
const DEVICES_MAX = 10_000;

type Kept = { readonly key: string; readonly samples: string; readonly count: number };
type Known = Kept & { readonly durable: Promise<unknown> };

/** A message under a key: new, and `changes` are to be committed with its readings; or taken before, or about to be. */
export type UnderKey =
  | {
      readonly isRepeat: false;
      readonly changes: readonly Change[];
      readonly take: (durable: Promise<number>) => Promise<number>;
    }
  | { readonly isRepeat: true; readonly count: Promise<number> };

export class TelemetryKeys {
  readonly #state: State;
  readonly #devicesMax: number;
  /** In the order of use. */
  readonly #devices = new Map<string, Known[]>();

  /** `devicesMax`: devices whose keys are in memory as well. */
  constructor(state: State, devicesMax = DEVICES_MAX) {
    this.#state = state;
    this.#devicesMax = devicesMax;
  }

  /** To be awaited right before `look`: what is known of the device is then in memory until the end of the turn. */
  async load(deviceId: string): Promise<void> {
    const known = this.#devices.get(deviceId);
    if (known !== undefined) return this.#keep(deviceId, known);
    const kept = (await valueAt<Kept[]>(this.#state, PREFIX + deviceId)) ?? [];
    if (this.#devices.has(deviceId)) return;
    this.#keep(
      deviceId,
      kept.map((one) => ({ ...one, durable: Promise.resolve() })),
    );
  }

  /** Throws `idempotency_conflict` when the key came before with other readings. `count`: of the readings. */
  look(deviceId: string, idempotencyKey: string, samples: readonly Sample[], count: number): UnderKey {
    const known = this.#devices.get(deviceId);
    if (known === undefined) throw new Error('bug: looked up without load');
    const key = hash('sha256', idempotencyKey, 'base64url');
    const digest = hash('sha256', JSON.stringify(samples), 'base64url');
    const had = known.find((one) => one.key === key);
    if (had !== undefined) {
      if (had.samples === digest) return { isRepeat: true, count: had.durable.then(() => had.count) };
      throw new DownlinkError('idempotency_conflict', 'this Idempotency-Key came before with other readings', {
        at: 'Idempotency-Key',
      });
    }
    const others = known.slice(1 - KEYS_KEPT);
    const kept: Kept[] = [...others.map(keptOf), { key, samples: digest, count }];
    return {
      isRepeat: false,
      changes: [{ put: PREFIX + deviceId, value: JSON.stringify(kept) }],
      take: (durable) => this.#take(deviceId, [...others, { key, samples: digest, count, durable }], durable),
    };
  }

  /** The device is no more. To be called in the turn that deletes it: another of its id is not to find its keys, also after a crash. */
  async forget(deviceId: string): Promise<void> {
    await this.#state.commit([{ del: PREFIX + deviceId }], [], 'exempt');
    this.#devices.delete(deviceId);
  }

  async #take(deviceId: string, known: Known[], durable: Promise<number>): Promise<number> {
    this.#keep(deviceId, known);
    try {
      return await durable;
    } catch (error) {
      const now = this.#devices.get(deviceId)?.filter((one) => one.durable !== durable);
      if (now !== undefined) this.#devices.set(deviceId, now);
      throw error;
    }
  }

  #keep(deviceId: string, known: Known[]): void {
    this.#devices.delete(deviceId);
    const [oldest] = this.#devices.keys();
    if (this.#devices.size >= this.#devicesMax && oldest !== undefined) this.#devices.delete(oldest);
    this.#devices.set(deviceId, known);
  }
}

function keptOf({ key, samples, count }: Kept): Kept {
  return { key, samples, count };
}
