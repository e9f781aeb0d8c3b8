import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { onTestFailed } from 'vitest';

/** A network that fails in the ways that networks do: a TCP proxy that can be told to, and a fetch that loses requests and answers. */

/**
 * `passing`: all goes through. `refusing`: connections are cut, and none is taken. `swallowing`: connections stay open and new ones are
 * taken, but nothing comes through any more (a half-open connection).
 */
export type ProxyMode = 'passing' | 'refusing' | 'swallowing';

export class TcpProxy {
  readonly #targetPort: () => number;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;
  #mode: ProxyMode = 'passing';
  /** Connections taken so far. */
  taken = 0;

  constructor(targetPort: () => number) {
    this.#targetPort = targetPort;
  }

  async start(): Promise<this> {
    await this.#listen();
    return this;
  }

  get port(): number {
    return this.#port;
  }

  /** Connections that were swallowed are cut when it passes again, as by a router that has forgotten them. */
  async set(mode: ProxyMode): Promise<void> {
    if (mode === this.#mode) return;
    const had = this.#mode;
    this.#mode = mode;
    if (mode !== 'swallowing') this.cut();
    if (mode === 'refusing') await this.#unlisten();
    if (had === 'refusing') await this.#listen();
  }

  /** Ends all connections at once. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.cut();
    await this.#unlisten();
  }

  async #listen(): Promise<void> {
    const server = createServer((socket) => this.#join(socket)).listen(this.#port, '127.0.0.1');
    await once(server, 'listening');
    this.#server = server;
    this.#port = (server.address() as AddressInfo).port;
  }

  async #unlisten(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    server.close();
    await once(server, 'close');
  }

  #join(device: Socket): void {
    this.taken += 1;
    const target = connect(this.#targetPort(), '127.0.0.1');
    const pair: [Socket, Socket][] = [
      [device, target],
      [target, device],
    ];
    for (const [from, to] of pair) {
      this.#sockets.add(from);
      from.on('data', (data) => this.#mode === 'passing' && to.write(data));
      from.on('error', () => {});
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    }
  }
}

/** Numbers from 0 up to 1, the same for a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A new one for the test that runs; printed when it fails. */
export function newSeed(): number {
  const seed = Math.floor(Math.random() * 2 ** 32);
  onTestFailed(() => console.error(`seed ${seed}`));
  return seed;
}

/** `fetch` of which each request, and each answer of a request that arrived, is lost with the probability `loss`. */
export function lossyFetch(random: () => number, loss: number, counts = { requests: 0, answers: 0 }): typeof fetch {
  return async (input, init) => {
    if (random() < loss) {
      counts.requests += 1;
      throw new TypeError('simulated: the request was lost');
    }
    const isAnswerLost = random() < loss;
    const response = await fetch(input, init);
    if (!isAnswerLost) return response;
    // An event stream has no end to wait for.
    if (response.headers.get('content-type')?.startsWith('text/event-stream')) await response.body?.cancel();
    else await response.arrayBuffer();
    counts.answers += 1;
    throw new TypeError('simulated: the answer was lost');
  };
}
