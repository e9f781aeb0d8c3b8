import type { Socket } from 'node:net';
import type { FastifyReply } from 'fastify';

/**
 * Answers that one turn of the event loop brings about leave together at its end. When many devices ask at once, each write of its own would wake whatever
 * takes it on the other side, which costs more than the answer (on virtual machines several times as much); of writes in a row only the first does.
 */
export class TurnEnd {
  #held: Socket[] = [];

  /** Call it before the answer is sent. With HTTP/2, which does so by itself, it does nothing. */
  hold({ raw }: FastifyReply): void {
    const { socket, httpVersionMajor } = raw.req;
    if (httpVersionMajor !== 1) return;
    socket.cork();
    if (this.#held.push(socket) === 1) setImmediate(() => this.#release());
  }

  #release(): void {
    const held = this.#held;
    this.#held = [];
    for (const socket of held) socket.uncork();
  }
}
