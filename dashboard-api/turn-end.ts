import type { Socket } from 'node:net';
import type { onSendHookHandler } from 'fastify';

/**
 * Answers that one turn of the event loop brings about leave together at its end. When many ask at once, each write of its own would wake whatever takes it on
 * the other side, which costs more than the answer (on virtual machines several times as much); of writes in a row only the first does.
 * From `stopping` on they leave at once, since a connection whose answer has ended is closed for being idle.
 */
export function leaveTogether(stopping: AbortSignal): onSendHookHandler {
  let held: Socket[] = [];
  const release = (): void => {
    const sockets = held;
    held = [];
    for (const socket of sockets) {
      // The prototype's is there again.
      delete (socket as Partial<Socket>).uncork;
      socket.uncork();
    }
  };
  stopping.addEventListener('abort', release);
  return ({ raw: { socket, httpVersionMajor } }, _, payload, done) => {
    // HTTP/2 does so by itself, and what is piped takes turns of its own.
    if (httpVersionMajor === 1 && !stopping.aborted && !isStream(payload) && !Object.hasOwn(socket, 'uncork')) {
      socket.cork();
      // An answer that ends uncorks its socket, however often it was corked.
      socket.uncork = () => {};
      if (held.push(socket) === 1) setImmediate(release);
    }
    done();
  };
}

function isStream(payload: unknown): boolean {
  return typeof payload === 'object' && payload !== null && 'pipe' in payload;
}
