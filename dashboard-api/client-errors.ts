import type { Socket } from 'node:net';
import type { BoundName } from '../broker/bounds.ts';
import type { Limits } from '../broker/limits/limits.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { PROBLEM_TYPE, problemOf } from './problem.ts';

/** Connections that end for another reason than an answer. Requests that never became one: too slow, headers too large, or not HTTP at all. Answered on the bare socket, which is then closed. */
export function answerClientError(limits: Pick<Limits, 'reached'>) {
  return (error: NodeJS.ErrnoException, socket: Socket): void => {
    if (error.code === 'ECONNRESET' || socket.destroyed) return;
    const bound = boundReached(error.code, socket);
    if (bound !== undefined) limits.reached(bound, { address: socket.remoteAddress });
    if (socket.writable) {
      const body = JSON.stringify(problemOf(new DownlinkError('invalid_request', reasonOf(error.code))));
      socket.write(
        `HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      );
    }
    socket.destroySoon();
  };
}

/** A listener for what Node.js calls a timeout of the server: nothing has come over the connection for as long as it may be idle between two requests. */
export function endIdle(limits: Pick<Limits, 'reached'>) {
  return (socket: Socket): void => {
    limits.reached('http_idle_seconds', { address: socket.remoteAddress });
    socket.destroy();
  };
}

/** Node.js has one code for slow headers and slow bodies; its parser knows whether the headers have come. */
type Parsed = { readonly parser?: { readonly incoming?: unknown } };

function boundReached(code: string | undefined, socket: Socket): BoundName | undefined {
  if (code === 'HPE_HEADER_OVERFLOW') return 'header_bytes';
  if (code !== 'ERR_HTTP_REQUEST_TIMEOUT') return undefined;
  return (socket as Parsed).parser?.incoming ? 'request_seconds' : 'header_seconds';
}

function reasonOf(code: string | undefined): string {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return 'the request took too long to arrive';
    case 'HPE_HEADER_OVERFLOW':
      return 'the headers are larger than the server takes';
    default:
      return 'this is not HTTP as the server knows it';
  }
}
