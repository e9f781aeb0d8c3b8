import { connect, type Socket } from 'node:net';
import { generate, parser, type Packet } from 'mqtt-packet';
import { ReceivedPackets } from '../received-packets.ts';

/** WebSocket frames as octets (RFC 6455, 5.2), since clients refuse to send what attackers send, and what the server says to them. */
export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

export type Frame = {
  readonly opcode?: number;
  readonly payload?: Buffer;
  readonly isFinal?: boolean;
  /** RSV1, RSV2 and RSV3 as 4, 2 and 1. */
  readonly reserved?: number;
  readonly isMasked?: boolean;
  /** The length it says that it has, in place of its own. */
  readonly claims?: bigint;
  /** Octets that the length is written in: 1, 3 or 9; the fewest unless given. */
  readonly lengthOctets?: 1 | 3 | 9;
};

const MASK = Buffer.from([0x37, 0xfa, 0x21, 0x3d]);
const UPGRADE = 'GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n';
export const UPGRADE_REQUEST = `${UPGRADE}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n`;

export function frame(given: Frame): Buffer {
  const { opcode = OPCODE.binary, payload = Buffer.alloc(0), isFinal = true, reserved = 0, isMasked = true } = given;
  const head = (isFinal ? 0x80 : 0) | ((reserved & 7) << 4) | (opcode & 15);
  const length = lengthField(given.claims ?? BigInt(payload.length), given.lengthOctets);
  length[0] = (length[0] ?? 0) | (isMasked ? 0x80 : 0);
  if (!isMasked) return Buffer.concat([Buffer.from([head]), length, payload]);
  const masked = Buffer.from(payload.map((octet, i) => octet ^ (MASK[i % 4] ?? 0)));
  return Buffer.concat([Buffer.from([head]), length, MASK, masked]);
}

function lengthField(length: bigint, octets: 1 | 3 | 9 = length < 126 ? 1 : length < 65_536 ? 3 : 9): Buffer {
  const field = Buffer.alloc(octets);
  if (octets === 1) field[0] = Number(length & 0x7fn);
  if (octets === 3) field.writeUInt16BE(Number(length & 0xffffn), 1);
  if (octets === 9) field.writeBigUInt64BE(length & 0xffff_ffff_ffff_ffffn, 1);
  if (octets > 1) field[0] = octets === 3 ? 126 : 127;
  return field;
}

export function closePayload(code: number, reason = Buffer.alloc(0)): Buffer {
  return Buffer.concat([Buffer.from([code >>> 8, code & 0xff]), reason]);
}

/** One WebSocket, upgraded already. */
export class RawWebSocket {
  readonly socket: Socket;
  /** Of the server's close frame, once it came. */
  closeCode: number | undefined;
  readonly pongs: Buffer[] = [];
  readonly #received: ReceivedPackets;

  private constructor(socket: Socket, early: Buffer) {
    this.socket = socket;
    this.#received = new ReceivedPackets(socket);
    const incoming = parser();
    incoming.on('packet', this.#received.add);
    let octets = this.#takeFrames(early, incoming);
    socket.on('data', (chunk: Buffer) => {
      octets = this.#takeFrames(Buffer.concat([octets, chunk]), incoming);
    });
  }

  /** Throws the server's answer when it is not upgraded. */
  static async open(port: number, request = UPGRADE_REQUEST): Promise<RawWebSocket> {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    socket.on('error', () => {});
    socket.write(request);
    let answer = Buffer.alloc(0);
    const early = await new Promise<Buffer>((resolve, reject) => {
      const take = (chunk: Buffer): void => {
        answer = Buffer.concat([answer, chunk]);
        const end = answer.indexOf('\r\n\r\n');
        if (end < 0) return;
        socket.off('data', take);
        if (answer.subarray(0, 12).toString() === 'HTTP/1.1 101') resolve(answer.subarray(end + 4));
        else reject(new Error(answer.toString('latin1')));
      };
      socket.on('data', take);
      socket.once('close', () => reject(new Error(`closed: ${answer.toString('latin1')}`)));
    });
    return new RawWebSocket(socket, early);
  }

  get closed(): Promise<void> {
    return this.#received.closed;
  }

  get isClosed(): boolean {
    return this.#received.isClosed;
  }

  /** False when it has to wait for the server to read. */
  send(...octets: Buffer[]): boolean {
    return !this.isClosed && this.socket.write(Buffer.concat(octets));
  }

  /** Each packet in a frame of its own. */
  say(...packets: (Packet | Buffer)[]): void {
    for (const packet of packets) this.send(frame({ payload: Buffer.isBuffer(packet) ? packet : generate(packet) }));
  }

  /** The next MQTT packet; undefined when the connection ends first. */
  next(): Promise<Packet | undefined> {
    return this.#received.next();
  }

  /** All MQTT packets that came before the answer to a ping sent now; then it is closed or not. */
  untilPong(): Promise<Packet[]> {
    this.say({ cmd: 'pingreq' });
    return this.#received.beforePong();
  }

  end(): void {
    this.socket.destroy();
  }

  /** Answers what is left of a frame that is not whole. The server's are not masked. */
  #takeFrames(octets: Buffer, incoming: ReturnType<typeof parser>): Buffer {
    let rest = octets;
    for (;;) {
      const short = (rest[1] ?? 0) & 0x7f;
      const bodyAt = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (rest.length < bodyAt) return rest;
      const length = short === 126 ? rest.readUInt16BE(2) : short === 127 ? Number(rest.readBigUInt64BE(2)) : short;
      if (rest.length < bodyAt + length) return rest;
      const body = rest.subarray(bodyAt, bodyAt + length);
      const opcode = (rest[0] ?? 0) & 15;
      if (opcode === OPCODE.binary) incoming.parse(body);
      if (opcode === OPCODE.pong) this.pongs.push(body);
      if (opcode === OPCODE.close) this.closeCode ??= length >= 2 ? body.readUInt16BE(0) : 1_005;
      rest = rest.subarray(bodyAt + length);
    }
  }
}
