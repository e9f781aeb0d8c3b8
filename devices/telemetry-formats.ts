import { parseCbor, parseCborMaps } from './cbor.ts';
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
      return parseTelemetry(parseCbor(octets));
    case 'application/senml+json':
      return parseSenml(parseJson(octets), now);
    case 'application/senml+cbor':
      return parseSenml(parseCborMaps(octets), now);
  }
}
