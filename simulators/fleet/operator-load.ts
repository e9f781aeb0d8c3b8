import { performance } from 'node:perf_hooks';
import { randomUUID } from 'node:crypto';
import type { Random } from '../models/random.ts';
import { ApiError, type OperatorApi } from '../operator-api.ts';
import { nextOrder, type Order } from './command-mix.ts';
import type { Pace } from './limits.ts';
import type { Facts, Ledger } from './ledger.ts';
import type { Meter } from './meter.ts';
import type { SimulatedDevice } from './simulated-device.ts';
import type { Way } from './ways.ts';

/** The simulated operator: issues commands to random devices at a steady rate, never more than a few requests at a time. */
export class OperatorLoad {
  readonly #parts: LoadParts;
  readonly #underWay = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #startedAtMs = 0;
  #due = 0;

  constructor(parts: LoadParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#startedAtMs = performance.now();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** Issues no more. Resolves when those under way are answered. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#underWay);
  }

  #tick(): void {
    const { rate, meter } = this.#parts;
    const due = Math.floor(((performance.now() - this.#startedAtMs) / 1_000) * rate);
    for (; this.#due < due; this.#due += 1) {
      if (this.#underWay.size >= REQUESTS_MAX) {
        meter.heldBack += 1;
        continue;
      }
      const issue = this.#issue().finally(() => this.#underWay.delete(issue));
      this.#underWay.add(issue);
    }
  }

  async #issue(): Promise<void> {
    const { api, ledger, meter, random, devices, pace, onDelivered } = this.#parts;
    const { device, way } = random.pick(devices);
    const order = nextOrder(device.kind, random, pace);
    const atMs = performance.now();
    try {
      const { id } = await api.issue(device.id, order.body, randomUUID());
      const facts = ledger.of(id);
      facts.issued = issuedFacts(device.id, order, atMs);
      meter.ways[way].issued += 1;
      if (facts.arrivedAtMs !== undefined) onDelivered(facts);
      if (order.cancel) await this.#cancel(facts);
    } catch (error) {
      if (error instanceof ApiError && error.status < 500) meter.refused += 1;
      else meter.unanswered += 1;
    }
  }

  async #cancel(facts: Facts): Promise<void> {
    facts.cancelled = 'unknown';
    try {
      facts.cancelled = (await this.#parts.api.cancel(facts.id)) ? 'yes' : 'no';
    } catch {
      // No answer: it may have been cancelled or not.
    }
  }
}

export type LoadParts = {
  readonly api: OperatorApi;
  readonly ledger: Ledger;
  readonly meter: Meter;
  readonly random: Random;
  readonly devices: readonly [Target, ...Target[]];
  /** Commands a second. */
  readonly rate: number;
  readonly pace: Pace;
  readonly onDelivered: (facts: Facts) => void;
};

export type Target = { readonly device: SimulatedDevice; readonly way: Way };

const TICK_MS = 20;
const REQUESTS_MAX = 32;

function issuedFacts(deviceId: string, { body, mayExpire }: Order, atMs: number): NonNullable<Facts['issued']> {
  return {
    deviceId,
    name: body.name,
    confirm: body.confirm ?? 'result',
    mayExpire,
    atMs,
    ...(body.key !== undefined && { key: body.key }),
  };
}
