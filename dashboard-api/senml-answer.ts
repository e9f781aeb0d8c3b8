import { encode } from 'cborg';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Negotiator from 'negotiator';
import { DownlinkError } from '../devices/downlink-error.ts';
import { SENML_NS_MIN, senmlPack, type PackReadings } from '../devices/senml-pack.ts';

/** Readings as SenML (RFC 8428) for operators' programs that ask for it by `Accept`. */
const FORM_OF_TYPE: Readonly<Record<string, 'json' | 'cbor'>> = {
  'application/senml+json': 'json',
  'application/senml+cbor': 'cbor',
};
const TYPES = ['application/json', ...Object.keys(FORM_OF_TYPE)];

/** Undefined for plain JSON, which is what is answered unless SenML is preferred. */
export function senmlFormOf({ headers: { accept } }: Pick<FastifyRequest, 'headers'>): 'json' | 'cbor' | undefined {
  if (accept === undefined || accept === '*/*') return undefined;
  const type = new Negotiator({ headers: { accept } }).mediaType(TYPES);
  return type === undefined ? undefined : FORM_OF_TYPE[type];
}

/** A pack has no place for a cursor: `next`, the path of the next page, goes into `Link` (RFC 8288). Throws `invalid_request` for readings of before 1978-07-04. */
export function sendSenml(
  reply: FastifyReply,
  form: 'json' | 'cbor',
  deviceId: string,
  readings: PackReadings,
  next?: string,
): FastifyReply {
  for (const [, { timeNs }] of readings) {
    if (timeNs >= SENML_NS_MIN) continue;
    throw new DownlinkError('invalid_request', 'SenML cannot tell times before 1978-07-04T21:24:16Z; ask for application/json', {
      at: 'Accept',
    });
  }
  const pack = senmlPack(deviceId, readings, form);
  if (next !== undefined) reply.header('link', `<${next}>; rel="next"`);
  const octets = form === 'json' ? JSON.stringify(pack.map((record) => Object.fromEntries(record))) : encode(pack);
  return reply.header('content-type', `application/senml+${form}`).send(Buffer.from(octets));
}
