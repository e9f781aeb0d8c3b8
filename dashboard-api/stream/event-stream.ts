import type { ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';

/** What every stream of server-sent events has in common (WHATWG HTML, 9.2). */
export const BEAT_MS = 15_000;
/** A client that reads nothing for so many beats is gone. */
export const STUCK_BEATS_MAX = 4;
/** How soon a client comes back that was cut off. */
export const RETRY_MS = 3_000;

const eventsOn = new WeakMap<Duplex, ServerResponse>();

/** Sends the head, after `reply.hijack()`. Proxies are told to pass each event on as it comes. */
export function beginEventStream(response: ServerResponse): void {
  // HTTP/2's has a stream.
  const { stream } = response as ServerResponse & { readonly stream?: Duplex };
  eventsOn.set(stream ?? response.req.socket, response);
  response.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    'x-accel-buffering': 'no',
  });
}

/** Whether what goes out over this connection of HTTP/1.1, or this stream of HTTP/2, is a stream of events that goes on. */
export function carriesEvents(carrier: Duplex): boolean {
  const response = eventsOn.get(carrier);
  // One whose turn on the connection has not come has no socket.
  return response !== undefined && !response.writableEnded && response.socket !== null;
}
