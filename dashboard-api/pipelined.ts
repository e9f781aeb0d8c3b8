import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ApiParts } from './api-parts.ts';

/** A part of Node.js that it does not document: called with each request whose headers have come, it answers how its parser is to go on. */
type Parsing = { readonly parser?: { onIncoming: () => number } | null };

/** No HTTP follows: its parser looks at no octet more. (`pause` has it go on to the end of what the read has brought.) */
const PARSE_NO_MORE = 2;

/**
 * Requests that come before the answers to those before them (RFC 9112, 9.3.2). Node.js reads as many as a connection brings, thousands at once, and nobody else
 * has a turn meanwhile: more than a client in its right mind sends end the connection.
 */
export function boundPipelined({ limits }: Pick<ApiParts, 'limits'>) {
  const waiting = new WeakMap<Socket, number>();
  /** An `onRequest` hook, before all others. */
  return (request: FastifyRequest, reply: FastifyReply, done: () => void): void => {
    const { socket, httpVersionMajor } = request.raw;
    // HTTP/2 bounds its streams.
    if (httpVersionMajor !== 1) return done();
    // Nobody is there to be answered.
    if (socket.destroyed) return void reply.hijack();
    // An answer that has its turn has a socket.
    if (reply.raw.socket !== null) return done();
    const others = waiting.get(socket) ?? 0;
    if (others >= limits.bounds.pipelined_requests) {
      limits.reached('pipelined_requests', { address: request.ip });
      // Else it goes on with all that the read has brought, and each takes its part of the turn.
      const { parser } = socket as Socket & Parsing;
      if (parser) parser.onIncoming = () => PARSE_NO_MORE;
      socket.destroy();
      return void reply.hijack();
    }
    waiting.set(socket, others + 1);
    reply.raw.once('close', () => waiting.set(socket, (waiting.get(socket) ?? 1) - 1));
    done();
  };
}
