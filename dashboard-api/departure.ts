import type { EventEmitter } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
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

/**
 * Calls `listener` when the client goes before the whole of the answer has left; it may be kept until the connection's next such answer. Call it before the
 * answer is sent.
 */
export function onLost({ raw }: FastifyReply, listener: () => void): void {
  if (!isHttp2(raw.req)) return answersOf(raw.req.socket).add({ raw, listener });
  raw.once('close', listener);
  raw.once('finish', () => {
    // HTTP/2 says it of every answer that ends, so that its stream has to be asked.
    if (raw.writableFinished) raw.off('close', listener);
  });
}

type Answer = { readonly raw: ServerResponse; readonly listener: () => void };
const ANSWERS = Symbol('answers');

/**
 * The answers of one connection of HTTP/1.1 that may be lost. They are asked when it closes, and have no listeners of their own: a list of listeners that V8
 * has put where old objects are keeps each answer in memory, and has it copied, long after it has left.
 */
class Answers {
  readonly #answers: Answer[] = [];

  add(answer: Answer): void {
    let kept = 0;
    // All but always the one before has left.
    for (const earlier of this.#answers) if (!hasLeft(earlier)) this.#answers[kept++] = earlier;
    this.#answers[kept] = answer;
    this.#answers.length = kept + 1;
  }

  /** The connection has closed. */
  readonly end = (): void => {
    for (const answer of this.#answers.splice(0)) if (!hasLeft(answer)) answer.listener();
  };
}

function answersOf(socket: Socket & { [ANSWERS]?: Answers }): Answers {
  let answers = socket[ANSWERS];
  if (answers === undefined) {
    answers = new Answers();
    socket[ANSWERS] = answers;
    socket.once('close', answers.end);
  }
  return answers;
}

/** Its last octet is with the system: the socket is taken from it then, and not before. */
function hasLeft({ raw }: Answer): boolean {
  return raw.socket === null && raw.writableFinished;
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
