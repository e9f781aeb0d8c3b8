import { Buffer, isUtf8 } from 'node:buffer';
import { DownlinkError } from './downlink-error.ts';

export type JsonValue = string | number | boolean | null | JsonValue[] | { [name: string]: JsonValue };

export const JSON_DEPTH_MAX = 32;

/** Half of a surrogate pair: no character. UTF-8 cannot say it, and so neither can whatever keeps text as octets; JSON can, as an escape. */
const LONE_SURROGATE = /\p{Surrogate}/u;
const SURROGATE_ESCAPE = /\\u[dD][89a-fA-F]/;

/**
 * Reads JSON from octets. Throws `invalid_json` for what is not UTF-8, not JSON, nests more than 32 deep, or has text with half of a surrogate
 * pair in it (RFC 8259, 8.2, warns of it).
 */
export function parseJson(octets: Uint8Array): JsonValue {
  if (octets.length === 0) throw new DownlinkError('invalid_json', 'not JSON: there is nothing in it');
  if (!isUtf8(octets)) throw new DownlinkError('invalid_json', 'not JSON: the text is not valid UTF-8');
  const buffer = Buffer.isBuffer(octets) ? octets : Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength);
  const text = buffer.toString('utf8');
  let value: JsonValue;
  try {
    value = JSON.parse(text) as JsonValue;
  } catch (error) {
    throw new DownlinkError('invalid_json', `not JSON: ${(error as Error).message}`);
  }
  if (isDeeperThan(value, JSON_DEPTH_MAX)) {
    throw new DownlinkError('invalid_json', `arrays and objects nest deeper than ${JSON_DEPTH_MAX}`);
  }
  if (SURROGATE_ESCAPE.test(text) && hasLoneSurrogate(value)) {
    throw new DownlinkError('invalid_json', 'an escape is half of a surrogate pair, which is no character');
  }
  return value;
}

function hasLoneSurrogate(value: JsonValue): boolean {
  if (typeof value === 'string') return LONE_SURROGATE.test(value);
  if (typeof value !== 'object' || value === null) return false;
  return Object.entries(value).some(([name, part]) => LONE_SURROGATE.test(name) || hasLoneSurrogate(part));
}

/** True when `value` nests deeper than `depthMax` arrays and objects. */
export function isDeeperThan(value: unknown, depthMax: number): boolean {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return false;
  if (depthMax === 0) return true;
  for (const name in value) {
    if (isDeeperThan((value as Record<string, unknown>)[name], depthMax - 1)) return true;
  }
  return false;
}

/** The place, from `at` on, of a number that is past what a double can hold: JSON could not say it again. Undefined: there is none. */
export function infiniteAt(value: unknown, at: string): string | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : at;
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return undefined;
  for (const name in value) {
    const place = Array.isArray(value) ? `${at}[${name}]` : `${at}.${name}`;
    const found = infiniteAt((value as Record<string, unknown>)[name], place);
    if (found !== undefined) return found;
  }
  return undefined;
}
