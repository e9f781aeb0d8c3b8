import { once } from 'node:events';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';

/** HTTP/2 as frames (RFC 9113, 4.1), since clients refuse to send what attackers send, and what the server says to them. */
export const FRAME = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
export const FLAG = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 32 } as const;
export const SETTING = { headerTableSize: 1, initialWindowSize: 4, maxFrameSize: 5 } as const;
export const ERROR = { protocol: 1, flowControl: 3, frameSize: 6, refusedStream: 7, cancel: 8, enhanceYourCalm: 11 } as const;

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const HEAD_BYTES = 9;

export function frameOf(
  type: number,
  flags: number,
  stream: number,
  payload: Buffer = Buffer.alloc(0),
  claims = payload.length,
): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUIntBE(claims & 0xff_ffff, 0, 3);
  head[3] = type & 0xff;
  head[4] = flags & 0xff;
  head.writeUInt32BE(stream >>> 0, 5);
  return Buffer.concat([head, payload]);
}

export function uint32(value: number): Buffer {
  const octets = Buffer.alloc(4);
  octets.writeUInt32BE(value >>> 0);
  return octets;
}

export function settings(...pairs: [number, number][]): Buffer {
  const parts = pairs.map(([name, value]) => Buffer.concat([Buffer.from([name >>> 8, name & 0xff]), uint32(value)]));
  return frameOf(FRAME.settings, 0, 0, Buffer.concat(parts));
}

/** A header as it is, in no table (RFC 7541, 6.2.2). */
export function literal(name: string, value: string): Buffer {
  return Buffer.concat([Buffer.from([0]), text(name), text(value)]);
}

/** One that goes into the table as well (6.2.1): 62 is its place then. */
export function indexed(name: string, value: string): Buffer {
  return Buffer.concat([Buffer.from([0x40]), text(name), text(value)]);
}

function text(value: string): Buffer {
  const octets = Buffer.from(value, 'latin1');
  return Buffer.concat([integer(octets.length, 7), octets]);
}

/** RFC 7541, 5.1. */
function integer(value: number, bits: number): Buffer {
  const most = 2 ** bits - 1;
  if (value < most) return Buffer.from([value]);
  const octets = [most];
  let rest = value - most;
  for (; rest >= 128; rest = Math.floor(rest / 128)) octets.push((rest % 128) | 128);
  return Buffer.from([...octets, rest]);
}

export function requestHeaders(path: string, more: Record<string, string> = {}, method = 'GET'): Buffer {
  const own = { ':method': method, ':scheme': 'https', ':authority': 'localhost', ':path': path, ...more };
  return Buffer.concat(Object.entries(own).map(([name, value]) => literal(name, value)));
}

export class RawHttp2 {
  readonly socket: TLSSocket;
  readonly closed: Promise<void>;
  /** The server takes no more requests: it has closed, or said goodbye because of an error. Node leaves the socket open then until the session has idled. */
  readonly over: Promise<void>;
  /** Streams that the server has answered to the end, that it has reset and why, and what it said goodbye with. */
  readonly ended = new Set<number>();
  readonly resets = new Map<number, number>();
  goaway: number | undefined;
  #isClosed = false;
  #rest: Buffer = Buffer.alloc(0);
  #arrived: () => void = () => {};
  #isOver: () => void = () => {};

  private constructor(socket: TLSSocket) {
    this.socket = socket;
    this.over = new Promise((resolve) => (this.#isOver = resolve));
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        this.#isClosed = true;
        this.#isOver();
        this.#arrived();
        resolve();
      }),
    );
  }

  /** The preface and empty settings are said, unless it is `bare`. */
  static async open(port: number, options: ConnectionOptions, first: Buffer = settings(), isBare = false): Promise<RawHttp2> {
    const socket = connect({ host: '127.0.0.1', servername: 'localhost', port, ALPNProtocols: ['h2'], ...options });
    await once(socket, 'secureConnect');
    const client = new RawHttp2(socket);
    if (!isBare) client.send(PREFACE, first);
    return client;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** False when it has to wait for the server to read. */
  send(...octets: Buffer[]): boolean {
    return !this.#isClosed && this.socket.writable && this.socket.write(Buffer.concat(octets));
  }

  /** Says it again and again, until the server has read so many or has had enough. */
  async flood(times: number, next: (n: number) => Buffer): Promise<void> {
    for (let n = 0; n < times && this.goaway === undefined && this.socket.writable; n += 1) {
      if (this.send(next(n))) continue;
      await Promise.race([this.over, new Promise((resolve) => this.socket.once('drain', resolve))]);
    }
  }

  request(stream: number, path = '/healthz', more: Record<string, string> = {}): void {
    this.send(frameOf(FRAME.headers, FLAG.endStream | FLAG.endHeaders, stream, requestHeaders(path, more)));
  }

  /** Whether the stream was answered, before the server closed or reset it. */
  async answered(stream: number): Promise<boolean> {
    while (!this.ended.has(stream) && !this.resets.has(stream) && !this.#isClosed) {
      await new Promise<void>((resolve) => (this.#arrived = resolve));
    }
    return this.ended.has(stream);
  }

  end(): void {
    this.socket.destroy();
  }

  #take(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= HEAD_BYTES) {
      const length = this.#rest.readUIntBE(0, 3);
      if (this.#rest.length < HEAD_BYTES + length) break;
      const [type, flags] = [this.#rest[3], this.#rest[4] ?? 0];
      const stream = this.#rest.readUInt32BE(5) & 0x7fff_ffff;
      const payload = this.#rest.subarray(HEAD_BYTES, HEAD_BYTES + length);
      if ((type === FRAME.data || type === FRAME.headers) && (flags & FLAG.endStream) > 0) this.ended.add(stream);
      if (type === FRAME.reset) this.resets.set(stream, payload.readUInt32BE(0));
      if (type === FRAME.goaway) {
        this.goaway = payload.readUInt32BE(4);
        this.#isOver();
      }
      if (type === FRAME.settings && (flags & FLAG.ack) === 0) this.send(frameOf(FRAME.settings, FLAG.ack, 0));
      this.#rest = this.#rest.subarray(HEAD_BYTES + length);
    }
    this.#arrived();
  }
}
