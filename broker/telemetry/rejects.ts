import type { Clock } from '../../devices/clock.ts';
import type { DownlinkError } from '../../devices/downlink-error.ts';
import type { ErrorCode } from '../../devices/error-codes.ts';
import type { State } from '../store/state.ts';
import { valuesUnder } from '../store/values.ts';

/** What each device sent that was refused, and why: the last hundred a device, in State. */
export type Reject = {
  readonly at: number;
  readonly transport: 'mqtt' | 'http';
  /** The topic or path it came by. */
  readonly where: string;
  readonly code: ErrorCode;
  readonly message: string;
  /** The beginning of what was sent, as text. */
  readonly excerpt: string;
};

export const REJECTS_KEPT_MAX = 100;
const EXCERPT_BYTES_MAX = 256;
const PREFIX = 'reject/';

export class Rejects {
  readonly #state: State;
  readonly #clock: Clock;
  /** How many each device has had: where in its ring of slots the next one goes. */
  readonly #counts = new Map<string, number>();

  constructor(state: State, clock: Clock) {
    this.#state = state;
    this.#clock = clock;
  }

  async load(): Promise<void> {
    for await (const [, { deviceId, n }] of valuesUnder<{ deviceId: string; n: number }>(this.#state, PREFIX)) {
      this.#counts.set(deviceId, Math.max(this.#counts.get(deviceId) ?? 0, n + 1));
    }
  }

  async keep(
    deviceId: string,
    from: { transport: Reject['transport']; where: string; body: Uint8Array },
    error: DownlinkError,
  ): Promise<void> {
    const n = this.#counts.get(deviceId) ?? 0;
    this.#counts.set(deviceId, n + 1);
    const reject: Reject = {
      at: this.#clock.now(),
      transport: from.transport,
      where: from.where.slice(0, EXCERPT_BYTES_MAX),
      code: error.code,
      message: error.message,
      excerpt: Buffer.from(from.body.subarray(0, EXCERPT_BYTES_MAX)).toString('utf8'),
    };
    await this.#state.commit([{ put: slotKey(deviceId, n), value: JSON.stringify({ deviceId, n, reject }) }], []);
  }

  /** Newest first. */
  async list(deviceId: string): Promise<Reject[]> {
    const kept: { n: number; reject: Reject }[] = [];
    for await (const [, slot] of valuesUnder<{ n: number; reject: Reject }>(this.#state, `${PREFIX}${deviceId}/`))
      kept.push(slot);
    return kept.toSorted((a, b) => b.n - a.n).map(({ reject }) => reject);
  }

  async forget(deviceId: string): Promise<void> {
    const count = this.#counts.get(deviceId);
    if (count === undefined) return;
    this.#counts.delete(deviceId);
    const slots = Array.from({ length: Math.min(count, REJECTS_KEPT_MAX) }, (_, n) => ({ del: slotKey(deviceId, n) }));
    await this.#state.commit(slots, []);
  }
}

function slotKey(deviceId: string, n: number): string {
  return `${PREFIX}${deviceId}/${String(n % REJECTS_KEPT_MAX).padStart(3, '0')}`;
}
