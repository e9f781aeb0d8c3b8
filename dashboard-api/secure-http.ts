import { createServer as createHttp1, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  constants,
  createServer as createHttp2,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
} from 'node:http2';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Bounds } from '../broker/bounds.ts';
import type { Limits } from '../broker/limits/limits.ts';
import { SECOND_MS } from '../devices/clock.ts';
import type { Api } from './api-parts.ts';
import type { UnreadAnswers } from './unread-answers.ts';

/**
 * HTTP over connections on which TLS is established: HTTP/2 where the client has chosen it (ALPN `h2`), else HTTP/1.1, both into the routes of the
 * plain port and with its limits of time and size. What an HTTP/2 client may ask for at a time is bounded here; floods of resets, pings, settings and
 * CONTINUATION frames end the session by node:http2's and nghttp2's own limits.
 */
export const SECURE_PROTOCOLS = ['h2', 'http/1.1'] as const;

const STREAMS_OF_SESSION_MAX = 100;
const HEADERS_OF_REQUEST_MAX = 100;
/** What one session may have in memory, in MB (10^6). */
const SESSION_MEGABYTES_MAX = 10;
const INVALID_FRAMES_MAX = 100;
const REFUSED_STREAMS_MAX = 100;
const CLOSE_IDLE_EVERY_MS = 50;

export class SecureHttp {
  /** The one that WebSocket upgrades come by. */
  readonly http1: Server;
  readonly #http2: ReturnType<typeof createHttp2>;
  readonly #sockets = new Set<TLSSocket>();
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #bounds: Bounds;
  readonly #reached: Limits['reached'];
  readonly #unread: UnreadAnswers;
  #whenGone: (() => void) | undefined;
  #isClosing = false;

  constructor(app: Api, limits: Pick<Limits, 'bounds' | 'reached'>, unread: UnreadAnswers) {
    const { headersTimeout, requestTimeout, keepAliveTimeout } = app.server;
    const { header_bytes: headerBytesMax } = limits.bounds;
    this.#bounds = limits.bounds;
    this.#unread = unread;
    this.#reached = (bound, who) => limits.reached(bound, who);
    const route = (request: IncomingMessage | Http2ServerRequest, response: ServerResponse | Http2ServerResponse): void =>
      app.routing(request as IncomingMessage, response as ServerResponse);
    this.http1 = createHttp1(
      { headersTimeout, requestTimeout, keepAliveTimeout, maxHeaderSize: headerBytesMax },
      (request, response) => route(request, response),
    );
    this.http1.on('clientError', (error: Error, socket: Socket) => app.server.emit('clientError', error, socket));
    this.http1.on('timeout', (socket: Socket) => app.server.emit('timeout', socket));
    unread.followServer(this.http1);
    // It never listens, but what it limits and ends connections by is set up when it begins to.
    this.http1.emit('listening');
    this.#http2 = createHttp2(
      {
        settings: { maxConcurrentStreams: STREAMS_OF_SESSION_MAX, maxHeaderListSize: headerBytesMax, enablePush: false },
        maxHeaderListPairs: HEADERS_OF_REQUEST_MAX,
        maxSessionMemory: SESSION_MEGABYTES_MAX,
        maxSessionInvalidFrames: INVALID_FRAMES_MAX,
        maxSessionRejectedStreams: REFUSED_STREAMS_MAX,
      },
      (request, response) => {
        this.#boundTimeOf(request);
        // Outside of nghttp2's callbacks, in which ending a stream or a session damages memory (nodejs/node#38964), and after the resets that came with it.
        setImmediate(() => {
          if (!request.stream.destroyed) route(request, response);
        });
      },
    );
    this.#http2.on('session', (session) => this.#follow(session));
  }

  get connections(): number {
    return this.#sockets.size;
  }

  accept(socket: TLSSocket): void {
    if (this.#isClosing) {
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      if (this.#sockets.size === 0) this.#whenGone?.();
    });
    if (socket.alpnProtocol === 'h2') this.#unread.followSocket(socket);
    (socket.alpnProtocol === 'h2' ? this.#http2 : this.http1).emit('connection', socket);
  }

  /**
   * Tells HTTP/2 clients to go away, lets requests that are under way finish, and resolves when every connection is gone; those that are still there
   * after `msMax` are cut. Upgraded ones are left to whoever has taken them.
   */
  async close(msMax: number): Promise<void> {
    this.#isClosing = true;
    for (const session of this.#sessions) session.close();
    const idle = setInterval(() => this.http1.closeIdleConnections(), CLOSE_IDLE_EVERY_MS);
    const cut = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy();
    }, msMax);
    // Answers of this turn leave at its end.
    setImmediate(() => this.http1.closeIdleConnections());
    if (this.#sockets.size > 0) await new Promise<void>((resolve) => (this.#whenGone = resolve));
    clearInterval(idle);
    clearTimeout(cut);
    this.http1.close();
  }

  /** A session without a request for too long is told to go, pings or not. */
  #follow(session: ServerHttp2Session): void {
    this.#sessions.add(session);
    const { remoteAddress: address } = session.socket;
    const endAfter = (bound: 'header_seconds' | 'http_idle_seconds'): NodeJS.Timeout =>
      setTimeout(() => {
        this.#reached(bound, { address });
        session.close();
      }, this.#bounds[bound] * SECOND_MS);
    let streams = 0;
    let timer = endAfter('header_seconds');
    session.on('stream', (stream) => {
      this.#unread.followStream(stream);
      streams += 1;
      clearTimeout(timer);
      stream.once('close', () => {
        streams -= 1;
        if (streams === 0 && !session.closed) timer = endAfter('http_idle_seconds');
      });
    });
    session.once('close', () => {
      clearTimeout(timer);
      this.#sessions.delete(session);
    });
  }

  /** HTTP/2 has no limit of time in Node for the whole of a request, as HTTP/1.1 has. */
  #boundTimeOf({ stream }: Http2ServerRequest): void {
    if (stream.endAfterHeaders) return;
    const timer = setTimeout(() => {
      this.#reached('request_seconds', { address: stream.session?.socket.remoteAddress });
      stream.close(constants.NGHTTP2_CANCEL);
    }, this.#bounds.request_seconds * SECOND_MS);
    stream.once('end', () => clearTimeout(timer));
    stream.once('close', () => clearTimeout(timer));
  }
}
