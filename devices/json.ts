import { DownlinkError } from './downlink-error.ts';

export type JsonValue = string | number | boolean | null | JsonValue[] | { [name: string]: JsonValue };

export const JSON_DEPTH_MAX = 32;

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** Reads JSON from octets. Throws `invalid_json` for what is not UTF-8, not JSON, or nests more than 32 deep. */
export function parseJson(octets: Uint8Array): JsonValue {
  let value: JsonValue;
  try {
    value = JSON.parse(utf8.decode(octets)) as JsonValue;
  } catch (error) {
    const reason = error instanceof TypeError ? 'the text is not valid UTF-8' : (error as Error).message;
    throw new DownlinkError('invalid_json', `not JSON: ${reason}`);
  }
  if (isDeeperThan(value, JSON_DEPTH_MAX)) {
    throw new DownlinkError('invalid_json', `arrays and objects nest deeper than ${JSON_DEPTH_MAX}`);
  }
  return value;
}

/** True when `value` nests deeper than `depthMax` arrays and objects. */
function isDeeperThan(value: unknown, depthMax: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  if (depthMax === 0) return true;
  for (const inner of Array.isArray(value) ? value : Object.values(value)) {
    if (isDeeperThan(inner, depthMax - 1)) return true;
  }
  return false;
}
