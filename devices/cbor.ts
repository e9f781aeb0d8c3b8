import { isUtf8 } from 'node:buffer';
import { decode, Tokenizer, type DecodeOptions } from 'cborg';
import { DownlinkError } from './downlink-error.ts';
import { isDeeperThan, JSON_DEPTH_MAX } from './json.ts';

/**
 * Reads CBOR (RFC 8949) of the shapes that JSON has, and byte strings. Throws `invalid_json` for what is not well-formed, holds what JSON has no
 * word for (undefined, NaN, tags, integers past 2^53, keys that are no text) or text that is not UTF-8, or nests more than 32 deep.
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
  const options: DecodeOptions = {
    useMaps,
    allowUndefined: false,
    allowBigInt: false,
    allowNaN: false,
    allowInfinity: false,
    rejectDuplicateMapKeys: true,
    retainStringBytes: true,
  };
  try {
    return decode(octets, { ...options, tokenizer: exactTexts(octets, options) }) as unknown;
  } catch (error) {
    throw new DownlinkError(
      'invalid_json',
      `not CBOR: ${error instanceof RangeError ? 'it nests too deeply' : (error as Error).message}`,
    );
  }
}

/** By itself cborg puts U+FFFD where text is not UTF-8 (RFC 8949, 5.3.1: not valid), and drops a U+FEFF that text begins with. */
function exactTexts(octets: Uint8Array, options: DecodeOptions): NonNullable<DecodeOptions['tokenizer']> {
  const tokenizer = new Tokenizer(octets, options);
  return {
    done: () => tokenizer.done(),
    pos: () => tokenizer.pos(),
    next: () => {
      const token = tokenizer.next();
      const { byteValue } = token;
      if (byteValue === undefined) return token;
      if (!isUtf8(byteValue)) throw new Error('text is not valid UTF-8');
      if (byteValue[0] === BYTE_ORDER_MARK) token.value = Buffer.from(byteValue).toString('utf8');
      return token;
    },
  };
}

/** Its first octet. */
const BYTE_ORDER_MARK = 0xef;
