import { connect, type Socket } from 'node:net';

/** One kept-alive HTTP/1.1 connection, one request at a time: just what a benchmark's client needs, so that it weighs little. */
export type HttpAnswer = { readonly status: number; readonly body: Buffer };

const EMPTY = Buffer.alloc(0);
const HEAD_END = '\r\n\r\n';

export class HttpConnection {
  readonly #socket: Socket;
  readonly #head: string;
  #received: Buffer = EMPTY;
  #waiting: { resolve(answer: HttpAnswer): void; reject(error: Error): void } | undefined;

  private constructor(socket: Socket, authorization: string) {
    this.#socket = socket;
    this.#head = `host: bench\r\nauthorization: ${authorization}\r\n`;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the server closed the connection')));
  }

  static async open(port: number, token: string): Promise<HttpConnection> {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new HttpConnection(socket, `Bearer ${token}`);
  }

  /** Rejects when the connection fails; any status is an answer. */
  request(method: 'GET' | 'POST', path: string, body?: string): Promise<HttpAnswer> {
    const content =
      body === undefined ? '\r\n' : `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(`${method} ${path} HTTP/1.1\r\n${this.#head}${content}`);
    });
  }

  /** A request whose answer must have `status`; answers the body. */
  async expect(status: number, method: 'GET' | 'POST', path: string, body?: string): Promise<Buffer> {
    const answer = await this.request(method, path, body);
    if (answer.status !== status) throw new Error(`${method} ${path}: ${answer.status} ${answer.body.toString()}`);
    return answer.body;
  }

  close(): void {
    this.#socket.removeAllListeners('close');
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk]);
    const headEnd = this.#received.indexOf(HEAD_END);
    if (headEnd < 0) return;
    const head = this.#received.toString('latin1', 0, headEnd);
    const bodyAt = headEnd + HEAD_END.length;
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    if (this.#received.length < bodyAt + length) return;
    const answer = { status: Number(head.slice(9, 12)), body: this.#received.subarray(bodyAt, bodyAt + length) };
    this.#received = this.#received.subarray(bodyAt + length);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve(answer);
  }

  #fail(error: Error): void {
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }
}
