import { BlockList, isIP, isIPv4 } from 'node:net';

/** Addresses as bounds count them, and the proxies that may speak for others. */

/** Of IPv6 the first 64 bits, since whoever has one address has all that share them; of IPv4 the whole, mapped into IPv6 or not. */
export function addressKey(ip: string): string {
  if (!ip.includes(':')) return ip;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)?.[1];
  if (mapped !== undefined) return mapped;
  const [address = ''] = ip.split('%', 1);
  const [head = '', tail] = address.split('::', 2);
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const gap = tail === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  const groups = [...before, ...Array.from({ length: gap }, () => '0'), ...after];
  return `${groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')}::/64`;
}

export class TrustedProxies {
  readonly #list = new BlockList();
  readonly #isEmpty: boolean;

  /** Each an address or a network (`10.0.0.0/8`, `fd00::/8`); throws for one that is neither. */
  constructor(networks: readonly string[]) {
    this.#isEmpty = networks.length === 0;
    for (const network of networks) {
      const [address = '', bits, more] = network.split('/');
      const isV4 = isIPv4(address);
      const bitsMax = isV4 ? 32 : 128;
      if (isIP(address) === 0 || more !== undefined) throw new Error(`${network} is no address or network`);
      if (bits !== undefined && (!/^\d{1,3}$/.test(bits) || Number(bits) > bitsMax))
        throw new Error(`${network} is no address or network`);
      this.#list.addSubnet(address, bits === undefined ? bitsMax : Number(bits), isV4 ? 'ipv4' : 'ipv6');
    }
  }

  has(ip: string | undefined): boolean {
    if (this.#isEmpty || ip === undefined || isIP(ip) === 0) return false;
    return this.#list.check(ip, isIPv4(ip) ? 'ipv4' : 'ipv6');
  }

  /** Whose connection it is: the last in `X-Forwarded-For` that is no trusted proxy, if the connection comes from one. */
  clientOf(ip: string | undefined, forwardedFor: string | string[] | undefined): string {
    if (!this.has(ip)) return ip ?? '';
    const hops = String(forwardedFor ?? '').split(',');
    for (const hop of hops.toReversed()) {
      const address = hop.trim();
      if (isIP(address) === 0) break;
      if (!this.has(address)) return address;
    }
    return ip ?? '';
  }
}
