import type { EventEmitter } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FastifyReply } from 'fastify';

/** Clients that go away before their answer, over HTTP/1.1 and HTTP/2 alike: the two tell of it in different ways. */
export function hasGone({ request: { raw } }: FastifyReply): boolean {
  return raw.socket.destroyed;
}

/**
 * What says `close` when the client goes: the socket, since an answer whose turn on it has not come is not told; with HTTP/2, where one socket
 * carries many, the answer, which says it when it has left as well.
 */
export function goingOf({ raw }: FastifyReply): EventEmitter {
  return isHttp2(raw.req) ? raw : raw.req.socket;
}

/** Calls `listener` when the client goes before the whole of the answer has left. Call it before the answer is sent. */
export function onLost(reply: FastifyReply, listener: () => void): void {
  const { raw } = reply;
  const going = goingOf(reply);
  // HTTP/2 says `finish` of every answer that ends, so that its stream has to be asked.
  const hasLeft = (): boolean => !isHttp2(raw.req) || raw.writableFinished;
  going.once('close', listener);
  raw.once('finish', () => {
    if (hasLeft()) going.off('close', listener);
  });
}

/** After this answer the connection is to end. HTTP/2 has GOAWAY for that, which comes by itself when the server stops. */
export function endAfterAnswer(reply: FastifyReply): void {
  if (!isHttp2(reply.request.raw)) reply.header('connection', 'close');
}

/** Fastify sets it after a body that was too large, and HTTP/2 has no such header. */
export function dropConnectionHeader(reply: FastifyReply): void {
  if (isHttp2(reply.request.raw)) reply.removeHeader('connection');
}

/** More waits in the socket than it is good to add to. */
export function isClogged(response: ServerResponse): boolean {
  // HTTP/2's has no writableNeedDrain.
  const { writableNeedDrain }: Partial<ServerResponse> = response;
  return writableNeedDrain ?? response.writableLength >= response.writableHighWaterMark;
}

function isHttp2({ httpVersionMajor }: IncomingMessage): boolean {
  return httpVersionMajor >= 2;
}
