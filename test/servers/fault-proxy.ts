import { createServer, connect, type AddressInfo, type Server, type Socket } from 'node:net';

/** Stands before a real server on TCP and spoils what passes, as told; may be told otherwise at any time. */
export const FAULTS = ['refuse', 'hang', 'answer_503', 'cut', 'garbage', 'wrong_page', 'slow'] as const;
export type Fault = (typeof FAULTS)[number];

const SLOW_MS = 150;
const CUT_AFTER_BYTES = 40;

export class FaultProxy {
  readonly #target: number;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;
  #fault: Fault | 'none' = 'none';

  private constructor(target: number) {
    this.#target = target;
  }

  static async start(targetUrl: string): Promise<FaultProxy> {
    const proxy = new FaultProxy(Number(new URL(targetUrl).port));
    await proxy.#listen();
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** From now on, also for connections that are open: they end, but for those that hang, which go on hanging. */
  async set(fault: Fault | 'none'): Promise<void> {
    const had = this.#fault;
    this.#fault = fault;
    if (had !== 'hang') for (const socket of this.#sockets) socket.destroy();
    if (fault === 'refuse') await this.#unlisten();
    else if (this.#server === undefined) await this.#listen();
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await this.#unlisten();
  }

  async #listen(): Promise<void> {
    const server = createServer((socket) => this.#serve(socket));
    this.#server = server;
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(this.#port, '127.0.0.1', resolve));
    this.#port = (server.address() as AddressInfo).port;
  }

  async #unlisten(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server !== undefined) await new Promise((resolve) => server.close(resolve));
  }

  #serve(socket: Socket): void {
    this.#keep(socket);
    switch (this.#fault) {
      case 'none':
        this.#pass(socket, (chunk, client) => client.write(chunk));
        return;
      case 'slow':
        this.#pass(socket, (chunk, client) => setTimeout(() => client.write(chunk), SLOW_MS));
        return;
      case 'cut':
        // The server has done what was asked; its answer does not get through.
        this.#pass(socket, (chunk, client) => client.end(chunk.subarray(0, CUT_AFTER_BYTES)));
        return;
      case 'hang':
      case 'refuse':
        socket.resume();
        return;
      case 'answer_503':
        answer(socket, 'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy');
        return;
      case 'wrong_page':
        answer(socket, 'HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>Log in!</html>');
        return;
      case 'garbage':
        answer(socket, '\u0000\u0001 no protocol at all \u00ff\r\n\r\n');
    }
  }

  #pass(socket: Socket, back: (chunk: Buffer, client: Socket) => void): void {
    const upstream = connect(this.#target, '127.0.0.1');
    this.#keep(upstream);
    socket.on('data', (chunk: Buffer) => upstream.write(chunk));
    upstream.on('data', (chunk: Buffer) => back(chunk, socket));
    socket.once('close', () => upstream.destroy());
    upstream.once('close', () => socket.destroy());
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => this.#sockets.delete(socket));
  }
}

function answer(socket: Socket, text: string): void {
  socket.on('data', () => socket.write(text));
}
