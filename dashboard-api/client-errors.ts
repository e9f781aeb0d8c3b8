import type { Socket } from 'node:net';
import { DownlinkError } from '../devices/downlink-error.ts';
import { PROBLEM_TYPE, problemOf } from './problem.ts';

/** Requests that never became one: too slow, headers too large, or not HTTP at all. Answered on the bare socket, which is then closed. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return;
  if (socket.writable) {
    const body = JSON.stringify(problemOf(new DownlinkError('invalid_request', reasonOf(error.code))));
    socket.write(
      `HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
  }
  socket.destroySoon();
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
