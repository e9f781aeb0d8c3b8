import { decode } from 'cborg';
import { DownlinkError } from './downlink-error.ts';
import { isDeeperThan, JSON_DEPTH_MAX } from './json.ts';

/**
 * Reads CBOR (RFC 8949) of the shapes that JSON has, and byte strings. Throws `invalid_json` for what is not well-formed, holds what JSON has no
 * word for (undefined, NaN, tags, integers past 2^53, keys that are no text), or nests more than 32 deep.
 */
export function parseCbor(octets: Uint8Array): unknown {
  const value = decoded(octets, false);
  if (isDeeperThan(value, JSON_DEPTH_MAX)) {
    throw new DownlinkError('invalid_json', `arrays and maps nest deeper than ${JSON_DEPTH_MAX}`);
  }
  return value;
}

/** As `parseCbor`, with maps as Map and so with keys of any type. */
export function parseCborMaps(octets: Uint8Array): unknown {
  return decoded(octets, true);
}

/** The same value with byte strings as base64 text, as JSON holds them. */
export function octetsAsBase64(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(octetsAsBase64);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, octetsAsBase64(part)]));
}

/** Depth is bounded by the stack: cborg's recursion ends in a RangeError, which is an error like any other here. */
function decoded(octets: Uint8Array, useMaps: boolean): unknown {
  try {
    return decode(octets, {
      useMaps,
      allowUndefined: false,
      allowBigInt: false,
      allowNaN: false,
      allowInfinity: false,
      rejectDuplicateMapKeys: true,
    }) as unknown;
  } catch (error) {
    throw new DownlinkError(
      'invalid_json',
      `not CBOR: ${error instanceof RangeError ? 'it nests too deeply' : (error as Error).message}`,
    );
  }
}
