import { timingSafeEqual } from 'node:crypto';
import type { DeviceRegistry } from '../broker/registry/device-registry.ts';
import type { Device } from '../devices/device.ts';

/**
 * Which device's token came last over each connection, so that a device which sends many requests over one has its token hashed once. Nothing is let in by it that
 * the registry would not: a token that was taken away is known by its digest no more.
 */
type Shown = { readonly authorization: Buffer; readonly digest: string };

export class ConnectionTokens {
  readonly #registry: DeviceRegistry;
  readonly #shown = new WeakMap<object, Shown>();

  constructor(registry: DeviceRegistry) {
    this.#registry = registry;
  }

  /** The device that this header was of before, over this connection. Takes the same time wherever the two differ. */
  deviceOf(socket: object, authorization: string): Device | undefined {
    const shown = this.#shown.get(socket);
    if (shown === undefined) return undefined;
    const given = Buffer.from(authorization, 'latin1');
    if (given.length !== shown.authorization.length || !timingSafeEqual(given, shown.authorization)) return undefined;
    return this.#registry.deviceOfDigest(shown.digest);
  }

  /** This header was found to be the device's. */
  remember(socket: object, authorization: string, { id }: Device): void {
    const digest = this.#registry.tokenDigestOf(id);
    if (digest !== undefined) this.#shown.set(socket, { authorization: Buffer.from(authorization, 'latin1'), digest });
  }
}
