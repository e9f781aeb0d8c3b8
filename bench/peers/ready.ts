import type { AddressInfo } from 'node:net';

/** Tells the benchmark where a peer listens; a port it does not have is 0. */
export function ready(ports: { http?: AddressInfo | string | null; mqtt?: AddressInfo | string | null }): void {
  process.stdout.write(`ready ${JSON.stringify({ http: portOf(ports.http), mqtt: portOf(ports.mqtt) })}\n`);
}

function portOf(address: AddressInfo | string | null | undefined): number {
  return typeof address === 'object' && address !== null ? address.port : 0;
}
