import type { FastifyInstance, FastifyRequest } from 'fastify';
import { parseCbor } from '../devices/cbor.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { parseJson } from '../devices/json.ts';
import type { AnswerFormat } from './device-answer.ts';

/** How request bodies are read: as strict JSON for operators' routes, as octets where the route decodes them itself, JSON or CBOR for devices. */
export const BODY_BYTES_MAX = 128 * 1024;

type BodyReader = Pick<FastifyInstance, 'removeAllContentTypeParsers' | 'addContentTypeParser'>;

/** A route without a body in its schema takes none; an empty one counts as none. */
export function readBodiesAsJson(app: BodyReader): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, octets, done) => {
    const encoded = wrongEncoding(request);
    if (encoded !== undefined) return done(encoded);
    if (octets.length === 0) return done(null, undefined);
    if (request.routeOptions.schema?.body === undefined && !request.is404) {
      return done(new DownlinkError('invalid_request', 'this route takes no body'));
    }
    try {
      done(null, parseJson(octets));
    } catch (error) {
      done(error as Error);
    }
  });
}

/** Whatever its type: the route looks at it with `mediaTypeOf`. */
export function readBodiesAsOctets(app: BodyReader): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<Buffer>('*', { parseAs: 'buffer' }, (request, octets, done) =>
    done(wrongEncoding(request) ?? null, octets),
  );
}

/** Bodies are read as they come: a compressed one is not unpacked. */
function wrongEncoding({ headers }: FastifyRequest): DownlinkError | undefined {
  const given = headers['content-encoding'];
  if (given === undefined || given === 'identity') return undefined;
  return new DownlinkError('unsupported_media_type', `bodies are taken uncompressed, not as ${given.slice(0, 80)}`, {
    at: 'Content-Encoding',
  });
}

/** JSON when nothing is said: small devices often say nothing. */
export function mediaTypeOf({ headers, mediaType }: FastifyRequest): string {
  return headers['content-type'] === undefined ? 'application/json' : (mediaType ?? headers['content-type']);
}

export function octetsOf({ body }: { body: unknown }): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.alloc(0);
}

const FORMAT_OF_TYPE: Readonly<Record<string, AnswerFormat>> = { 'application/json': 'json', 'application/cbor': 'cbor' };

/**
 * What a device sent, and in which format: that of the answer too, where `Accept` leaves the choice. Throws `unsupported_media_type` for what is neither JSON nor
 * CBOR, `invalid_json` for what cannot be decoded.
 */
export function deviceBodyOf(request: FastifyRequest): { readonly value: unknown; readonly format: AnswerFormat } {
  const mediaType = mediaTypeOf(request);
  const format = FORMAT_OF_TYPE[mediaType];
  if (format === undefined) throw wrongMediaType(mediaType, Object.keys(FORMAT_OF_TYPE));
  const octets = octetsOf(request);
  return { value: format === 'json' ? parseJson(octets) : parseCbor(octets), format };
}

export function wrongMediaType(given: string, taken: readonly string[]): DownlinkError {
  return new DownlinkError('unsupported_media_type', `this route does not read ${given.slice(0, 80)}; send ${taken.join(', ')}`, {
    at: 'Content-Type',
  });
}
