import { connect, type Socket } from 'node:net';
import { generate, parser, type IConnectPacket, type IPublishPacket, type Packet } from 'mqtt-packet';
import { ReceivedPackets } from '../received-packets.ts';

/** A client that says just the octets it is given, well-formed or not, and takes down what comes back. */
export class RawMqtt {
  readonly socket: Socket;
  readonly #received: ReceivedPackets;

  constructor(socket: Socket) {
    this.socket = socket;
    this.#received = new ReceivedPackets(socket);
    const incoming = parser();
    incoming.on('packet', this.#received.add);
    incoming.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => incoming.parse(chunk));
    socket.on('error', () => {});
  }

  /** Connected over TCP, nothing said yet. */
  static async open(port: number): Promise<RawMqtt> {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    const client = new RawMqtt(socket);
    await new Promise<void>((resolve) => {
      socket.once('connect', () => resolve());
      socket.once('close', () => resolve());
    });
    return client;
  }

  /** Logged in as the device; throws when it is not let in. */
  static async login(port: number, id: string, token: string, more: Partial<IConnectPacket> = {}): Promise<RawMqtt> {
    const client = await RawMqtt.open(port);
    client.send(connectPacket(id, token, more));
    const connack = await client.next();
    if (connack?.cmd !== 'connack' || connack.returnCode !== 0) throw new Error(`not let in: ${JSON.stringify(connack)}`);
    return client;
  }

  get closed(): Promise<void> {
    return this.#received.closed;
  }

  get isClosed(): boolean {
    return this.#received.isClosed;
  }

  /** False when it has to wait for the server to read. */
  send(octets: Buffer): boolean {
    return !this.isClosed && this.socket.write(octets);
  }

  /** The next packet; undefined when the server closes first. */
  next(): Promise<Packet | undefined> {
    return this.#received.next();
  }

  /** All packets that came before the answer to a ping sent now, which says that all before it was dealt with; then it is closed or not. */
  untilPong(): Promise<Packet[]> {
    this.send(PINGREQ);
    return this.#received.beforePong();
  }

  end(): void {
    this.socket.destroy();
  }
}

export const PINGREQ = Buffer.from([0xc0, 0x00]);

export function connectPacket(id: string, token: string, more: Partial<IConnectPacket> = {}): Buffer {
  return generate({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 4,
    clean: true,
    clientId: id,
    keepalive: 0,
    username: id,
    password: Buffer.from(token),
    ...more,
  });
}

export function publishPacket(topic: string, payload: string | Buffer, more: Partial<IPublishPacket> = {}): Buffer {
  return generate({ cmd: 'publish', topic, payload, qos: 1, messageId: 1, dup: false, retain: false, ...more });
}

/** SUBSCRIBE as octets: mqtt-packet refuses to make some that an attacker makes. */
export function subscribePacket(filters: readonly (string | Buffer)[], messageId = 1): Buffer {
  const parts = filters.flatMap((filter) => [sized(filter), Buffer.from([1])]);
  return packetOf(0x82, Buffer.concat([Buffer.from([messageId >>> 8, messageId & 0xff]), ...parts]));
}

/** A PUBLISH of QoS 1 to a topic of any octets. */
export function rawPublish(topic: string | Buffer, payload: string, messageId = 1): Buffer {
  return packetOf(0x32, Buffer.concat([sized(topic), Buffer.from([messageId >>> 8, messageId & 0xff]), Buffer.from(payload)]));
}

export function packetOf(firstOctet: number, body: Buffer): Buffer {
  return Buffer.concat([Buffer.from([firstOctet]), remainingLength(body.length), body]);
}

/** [MQTT-2.2.3] */
export function remainingLength(bytes: number): Buffer {
  const octets: number[] = [];
  let left = bytes;
  do {
    const octet = left % 128;
    left = Math.floor(left / 128);
    octets.push(left > 0 ? octet | 0x80 : octet);
  } while (left > 0);
  return Buffer.from(octets);
}

/** [MQTT-1.5.3] */
export function sized(text: string | Buffer): Buffer {
  const octets = Buffer.from(text as string);
  return Buffer.concat([Buffer.from([octets.length >>> 8, octets.length & 0xff]), octets]);
}
