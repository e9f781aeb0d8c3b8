import type { ServerResponse } from 'node:http';

/** What every stream of server-sent events has in common (WHATWG HTML, 9.2). */
export const BEAT_MS = 15_000;
/** A client that reads nothing for so many beats is gone. */
export const STUCK_BEATS_MAX = 4;
/** How soon a client comes back that was cut off. */
export const RETRY_MS = 3_000;

/** Sends the head, after `reply.hijack()`. Proxies are told to pass each event on as it comes. */
export function beginEventStream(response: ServerResponse): void {
  response.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    'x-accel-buffering': 'no',
  });
}
