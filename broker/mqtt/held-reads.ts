import type { Duplex } from 'node:stream';

/**
 * Keeps a connection from being read, for as long as anybody says so. aedes reads by `read(null)`: what it is not given stays in the socket, and in the
 * end with the client.
 */
const holdersOf = new WeakMap<Duplex, Set<object>>();

export function holdReads(stream: Duplex, holder: object): void {
  const holders = holdersOf.get(stream);
  if (holders !== undefined) return void holders.add(holder);
  holdersOf.set(stream, new Set([holder]));
  const read = stream.read.bind(stream) as (size?: number | null) => unknown;
  stream.read = (size?: number | null) => (size === null ? null : read(size));
}

/** It is for the holder to have aedes read on. */
export function letReads(stream: Duplex, holder: object): void {
  const holders = holdersOf.get(stream);
  if (holders?.delete(holder) !== true || holders.size > 0) return;
  holdersOf.delete(stream);
  // The prototype's is there again.
  delete (stream as Partial<Duplex>).read;
}
