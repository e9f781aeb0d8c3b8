import type { Server } from 'node:http';
import { constants, type ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import type { Limits } from '../broker/limits/limits.ts';
import { SECOND_MS } from '../devices/clock.ts';
import { carriesEvents } from './stream/event-stream.ts';

/**
 * Answers that their clients do not read. What a server says is kept until it is taken, and nothing else ends that: a connection in which something waits and
 * out of which nothing has gone for as long as may be is closed, and so is an answer of an HTTP/2 session, each of which has a window of its own. Event streams
 * have a rule of their own while they last.
 *
 * It is seen as coarsely as the system and Node.js tell it: a connection's octets go when its buffer has room again, an answer's over HTTP/2 by the 64 KiB, in
 * which Fastify writes it.
 */

/** So many in a row without progress are too many. They are counted and not timed: a server that stood still itself cuts nobody for it. */
const CHECKS = 8;

type Carrier = Socket | ServerHttp2Stream;
type Progress = { gone: number; checks: number };

/** A part of Node.js that it does not document: octets given to the system, and those of them that it has not taken. Of TLS it is its parent that tells. */
type Handle = { readonly bytesWritten: number; readonly writeQueueSize: number; readonly _parent?: Handle | null };

export class UnreadAnswers {
  readonly #limits: Pick<Limits, 'bounds' | 'reached'>;
  readonly #sockets = new Set<Socket>();
  readonly #streams = new Set<ServerHttp2Stream>();
  readonly #upgraded = new WeakSet<Socket>();
  /** Of those in which something waited at a check. */
  readonly #progress = new WeakMap<Carrier, Progress>();
  readonly #timer: NodeJS.Timeout;

  constructor(limits: Pick<Limits, 'bounds' | 'reached'>) {
    this.#limits = limits;
    this.#timer = setInterval(() => this.#check(), (limits.bounds.answer_seconds * SECOND_MS) / CHECKS).unref();
  }

  /** All connections of HTTP/1.1, until they become WebSockets. */
  followServer(server: Server): void {
    server.on('connection', (socket: Socket) => this.followSocket(socket));
    server.on('upgrade', (_, socket) => this.#upgraded.add(socket as Socket));
  }

  followSocket(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
  }

  followStream(stream: ServerHttp2Stream): void {
    this.#streams.add(stream);
    stream.once('close', () => this.#streams.delete(stream));
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** From a timer and from nowhere else: within nghttp2's callbacks an end damages memory (nodejs/node#38964). */
  #check(): void {
    for (const socket of this.#sockets) this.#checkSocket(socket);
    // All are looked at before one ends: its reset waits in the socket for a moment.
    for (const stream of [...this.#streams].filter((stream) => this.#isUnread(stream))) {
      this.#reached(stream.session?.socket.remoteAddress);
      stream.close(constants.NGHTTP2_CANCEL);
    }
  }

  #checkSocket(socket: Socket): void {
    if (!hasUnsent(socket) || carriesEvents(socket)) {
      this.#forget(socket);
      if (this.#upgraded.has(socket)) this.#sockets.delete(socket);
      return;
    }
    const { bytesWritten, writeQueueSize } = writtenTo(socket);
    if (!this.#isStuck(socket, bytesWritten - writeQueueSize)) return;
    this.#reached(socket.remoteAddress);
    socket.destroy();
  }

  #isUnread(stream: ServerHttp2Stream): boolean {
    const { session } = stream;
    if (session === undefined || session.destroyed || stream.closed) return false;
    if (stream.writableLength === 0 || carriesEvents(stream)) {
      this.#forget(stream);
      return false;
    }
    // Where the socket is clogged it has to wait for that, whatever its own window is, and the socket is what counts.
    return !hasUnsent(session.socket) && this.#isStuck(stream, -stream.writableLength);
  }

  /** `gone`: grows when octets leave, and with nothing else. */
  #isStuck(carrier: Carrier, gone: number): boolean {
    const progress = this.#progress.get(carrier);
    if (progress === undefined) {
      const begun = { gone, checks: 0 };
      this.#progress.set(carrier, begun);
      // Between two checks as much may have come as has gone.
      carrier.on('drain', () => (begun.checks = 0));
      return false;
    }
    progress.checks = gone > progress.gone ? 0 : progress.checks + 1;
    progress.gone = gone;
    return progress.checks >= CHECKS;
  }

  #forget(carrier: Carrier): void {
    const progress = this.#progress.get(carrier);
    if (progress !== undefined) progress.gone = -Infinity;
  }

  #reached(address: string | undefined): void {
    this.#limits.reached('answer_seconds', { address });
  }
}

/** More waits in it than the system takes. */
function hasUnsent(socket: Socket): boolean {
  return socket.writableLength > 0 || writtenTo(socket).writeQueueSize > 0;
}

function writtenTo(socket: Socket): Pick<Handle, 'bytesWritten' | 'writeQueueSize'> {
  const { _handle: handle } = socket as { readonly _handle?: Handle | null };
  return handle?._parent ?? handle ?? { bytesWritten: 0, writeQueueSize: 0 };
}
