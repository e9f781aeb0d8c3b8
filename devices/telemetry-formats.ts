import { decode } from 'cborg';
import { DownlinkError } from './downlink-error.ts';
import { parseJson } from './json.ts';
import { parseSenml } from './senml.ts';
import { parseTelemetry, type Sample } from './telemetry.ts';

/** The formats of a telemetry message, told apart by content type: JSON and CBOR (RFC 8949) of one shape, SenML (RFC 8428) in both. */
export const TELEMETRY_MEDIA_TYPES = [
  'application/json',
  'application/cbor',
  'application/senml+json',
  'application/senml+cbor',
] as const;
export type TelemetryMediaType = (typeof TELEMETRY_MEDIA_TYPES)[number];

export function isTelemetryMediaType(text: string): text is TelemetryMediaType {
  return (TELEMETRY_MEDIA_TYPES as readonly string[]).includes(text);
}

/** Throws `invalid_json` for octets that cannot be decoded, `invalid_telemetry` for what breaks a rule. */
export function decodeTelemetry(mediaType: TelemetryMediaType, octets: Uint8Array, now: number): Sample[] {
  switch (mediaType) {
    case 'application/json':
      return parseTelemetry(parseJson(octets));
    case 'application/cbor':
      return parseTelemetry(decodeCbor(octets, { useMaps: false }));
    case 'application/senml+json':
      return parseSenml(parseJson(octets), now);
    case 'application/senml+cbor':
      return parseSenml(decodeCbor(octets, { useMaps: true }), now);
  }
}

/** Depth is bounded by the stack: cborg's recursion ends in a RangeError, which is an error like any other here. */
function decodeCbor(octets: Uint8Array, options: { useMaps: boolean }): unknown {
  try {
    return decode(octets, {
      ...options,
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
