import type { Logger } from 'pino';
import { MINUTE_MS } from '../../devices/clock.ts';
import type { BoundName, Bounds } from '../bounds.ts';
import type { Metrics } from '../metrics.ts';
import { addressKey, TrustedProxies } from './addresses.ts';
import { BoundEvents } from './bound-events.ts';
import { ConnectionGate } from './connection-gate.ts';
import { LoginGuard } from './login-guard.ts';
import { Rates } from './rates.ts';

/**
 * What all ways in keep to together: connections, logins and rates. Rates go by who it is: a device's id, or `key:` and an operator key's id, which is no
 * device's.
 */
const ADDRESSES_KEPT_MAX = 100_000;
const TOLD_KEPT_MAX = 10_000;

export class Limits {
  readonly bounds: Bounds;
  readonly proxies: TrustedProxies;
  readonly gate: ConnectionGate;
  readonly logins: LoginGuard;
  readonly messages: Rates;
  readonly requests: Rates;
  readonly bytes: Rates;
  /** By address: of requests that take no credential. */
  readonly openRequests: Rates;
  /** By fleet key: of devices that register themselves. */
  readonly registrations: Rates;
  /** Milliseconds by a clock that does not go back. */
  readonly now: () => number;
  readonly #events: BoundEvents;
  readonly #toldAt = new Map<string, number>();

  constructor(
    bounds: Bounds,
    trustedProxies: readonly string[],
    metrics: Metrics,
    log: Logger,
    now: () => number = () => performance.now(),
  ) {
    this.bounds = bounds;
    this.now = now;
    this.proxies = new TrustedProxies(trustedProxies);
    this.#events = new BoundEvents(metrics, log);
    this.gate = new ConnectionGate(bounds, this.proxies, this.#events, now);
    this.logins = new LoginGuard(bounds, this.#events, now);
    this.messages = new Rates({ perSecond: bounds.messages_per_second }, now);
    this.requests = new Rates({ perSecond: bounds.requests_per_second }, now);
    this.bytes = new Rates({ perSecond: bounds.bytes_per_second }, now);
    this.registrations = new Rates({ perSecond: bounds.registrations_per_second }, now);
    this.openRequests = new Rates({ perSecond: bounds.open_requests_per_second }, now, ADDRESSES_KEPT_MAX);
  }

  /** Counts, and tells the log. `who`: what is known of the client. `times`: how much was turned away at once. */
  reached(bound: BoundName, who: Readonly<Record<string, string | undefined>>, times = 1): void {
    this.#events.reached(bound, who, times);
  }

  /** Once a minute for each device: what it is refused for its rate is kept among its rejects, and told to it, and that costs. */
  mayTell(deviceId: string): boolean {
    const now = this.now();
    const toldAt = this.#toldAt.get(deviceId);
    if (toldAt !== undefined && now - toldAt < MINUTE_MS) return false;
    // The order is that of the telling.
    this.#toldAt.delete(deviceId);
    const [oldest] = this.#toldAt.keys();
    if (this.#toldAt.size >= TOLD_KEPT_MAX && oldest !== undefined) this.#toldAt.delete(oldest);
    this.#toldAt.set(deviceId, now);
    return true;
  }

  /** 0, or after how many milliseconds the address may ask again for what takes no credential. */
  takeOpenRequest(ip: string): number {
    return this.openRequests.tryTake(addressKey(ip));
  }

  close(): void {
    this.gate.close();
    for (const rates of [this.messages, this.requests, this.bytes, this.registrations, this.openRequests]) rates.close();
  }
}
