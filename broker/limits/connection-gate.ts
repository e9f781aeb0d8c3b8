import type { Server, Socket } from 'node:net';
import type { Bounds } from '../bounds.ts';
import { addressKey, type TrustedProxies } from './addresses.ts';
import type { BoundEvents } from './bound-events.ts';
import { Rates } from './rates.ts';

/** Who may open a connection, by whatever port: so many in all, so many an address, so many a second an address. What is too much is closed at once. */
const ADDRESSES_KEPT_MAX = 100_000;
/**
 * Connections that wait to be accepted, of each port, as far as the system allows (Linux: net.core.somaxconn). With Node's 511 a fleet that comes back at once
 * after a restart overflows it, and TCP tries again only after 1, 3, 7, 15 s.
 */
export const CONNECT_BACKLOG = 8_192;

export class ConnectionGate {
  readonly #bounds: Bounds;
  readonly #proxies: TrustedProxies;
  readonly #events: BoundEvents;
  readonly #connects: Rates;
  readonly #open = new Map<string, number>();
  #openInAll = 0;

  /** `now`: milliseconds by a clock that does not go back. */
  constructor(bounds: Bounds, proxies: TrustedProxies, events: BoundEvents, now: () => number) {
    this.#bounds = bounds;
    this.#proxies = proxies;
    this.#events = events;
    this.#connects = new Rates({ perSecond: bounds.connects_per_second }, now, ADDRESSES_KEPT_MAX);
  }

  get open(): number {
    return this.#openInAll;
  }

  /** From now on the server's connections are counted, before anybody else sees them. */
  guard(server: Server): void {
    server.prependListener('connection', (socket: Socket) => this.#admit(socket));
  }

  close(): void {
    this.#connects.close();
  }

  #admit(socket: Socket): void {
    const { remoteAddress } = socket;
    // It was gone before it was taken.
    if (remoteAddress === undefined) return;
    // All come from a proxy's address.
    const address = this.#proxies.has(remoteAddress) ? undefined : addressKey(remoteAddress);
    const bound = this.#boundReached(address);
    if (bound !== undefined) {
      this.#events.reached(bound, { address: remoteAddress });
      socket.destroy();
      return;
    }
    this.#count(address, 1);
    socket.once('close', () => this.#count(address, -1));
  }

  #boundReached(address: string | undefined): 'connections' | 'connects_per_second' | 'connections_per_address' | undefined {
    if (this.#openInAll >= this.#bounds.connections) return 'connections';
    if (address === undefined) return undefined;
    if (this.#connects.tryTake(address) > 0) return 'connects_per_second';
    return (this.#open.get(address) ?? 0) >= this.#bounds.connections_per_address ? 'connections_per_address' : undefined;
  }

  #count(address: string | undefined, by: 1 | -1): void {
    this.#openInAll += by;
    if (address === undefined) return;
    const count = (this.#open.get(address) ?? 0) + by;
    if (count === 0) this.#open.delete(address);
    else this.#open.set(address, count);
  }
}
