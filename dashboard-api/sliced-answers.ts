import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';

/**
 * Large answers over HTTP/2 go slice by slice, each when the one before has left: a hundred streams of a session whose client reads none hold a slice each and
 * not an answer, and who reads slowly is told from who does not read at all, since Node.js knows of a write only whether it is through.
 */
const SLICE_BYTES = 16 * 1024;

/** An `onSend` hook. */
export function sliceAnswers(
  { raw }: FastifyRequest,
  reply: FastifyReply,
  payload: unknown,
  done: (error: null, payload: unknown) => void,
): void {
  if (raw.httpVersionMajor === 1 || !(typeof payload === 'string' || payload instanceof Uint8Array)) return done(null, payload);
  if (payload.length <= SLICE_BYTES) return done(null, payload);
  void reply.header('content-length', Buffer.byteLength(payload));
  done(null, typeof payload === 'string' ? slicesOf(payload, endOfText) : slicesOf(payload, endOf));
}

/** A string stays one, as it may be every answer's. */
function slicesOf<T extends string | Uint8Array>(whole: T, endAfter: (whole: T, begin: number) => number): Readable {
  let begin = 0;
  return new Readable({
    highWaterMark: 1,
    read() {
      if (begin >= whole.length) return void this.push(null);
      const end = endAfter(whole, begin);
      this.push(typeof whole === 'string' ? Buffer.from(whole.slice(begin, end)) : whole.subarray(begin, end));
      begin = end;
    },
  });
}

function endOf(_: Uint8Array, begin: number): number {
  return begin + SLICE_BYTES;
}

/** Not between the halves of a surrogate pair. */
function endOfText(whole: string, begin: number): number {
  const end = begin + SLICE_BYTES;
  const isSplit = /^[\uD800-\uDBFF][\uDC00-\uDFFF]$/.test(whole.slice(end - 1, end + 1));
  return isSplit ? end - 1 : end;
}
