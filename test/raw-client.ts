import { connect, type Socket } from 'node:net';
import { generate, parser, type IConnectPacket, type Packet } from 'mqtt-packet';
import { ReceivedPackets } from './received-packets.ts';
import type { LiveServer } from './live-server.ts';

/** An MQTT client that says just the octets that a test gives it, and hears packets one by one. */

export type ProgramKey = { readonly id: string; readonly key: string };
export type Rights = { allow: { filter: string; publish?: boolean; subscribe?: boolean }[]; deny?: Rights['allow'] };

export const ALL: Rights = { allow: [{ filter: '#' }] };

/** An operator key that may log in over MQTT. */
export async function createKey(server: LiveServer, mqtt: Rights = ALL): Promise<ProgramKey> {
  const { status, body } = await server.request<{ key: { id: string }; secret: string }>('POST', '/v1/keys', {
    body: { name: 'program', role: 'viewer', mqtt },
  });
  if (status !== 201) throw new Error(`key: ${status} ${JSON.stringify(body)}`);
  return { id: body.key.id, key: body.secret };
}

/** To a packet that came with a message id. */
type Answer = { readonly cmd: 'puback' | 'pubrec' | 'pubrel' | 'pubcomp'; readonly messageId: number | undefined };

export class RawClient {
  readonly #socket: Socket;
  readonly #received: ReceivedPackets;

  constructor(port: number) {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.#socket = socket;
    this.#received = new ReceivedPackets(socket);
    const incoming = parser();
    incoming.on('packet', this.#received.add);
    socket.on('data', (chunk: Buffer) => incoming.parse(chunk));
    socket.on('error', () => {});
  }

  send(...packets: (Packet | Answer | Buffer)[]): void {
    this.#socket.write(Buffer.concat(packets.map((packet) => (Buffer.isBuffer(packet) ? packet : generate(packet as Packet)))));
  }

  get closed(): Promise<void> {
    return this.#received.closed;
  }

  /** The next packet. Throws when the connection ends without one. */
  async next(): Promise<Packet> {
    const packet = await this.nextOrEnd();
    if (packet === undefined) throw new Error('the connection was closed');
    return packet;
  }

  /** Undefined when the connection ends first. */
  nextOrEnd(): Promise<Packet | undefined> {
    return this.#received.next();
  }

  /** The next `count` packets. */
  async take(count: number): Promise<Packet[]> {
    const packets: Packet[] = [];
    while (packets.length < count) packets.push(await this.next());
    return packets;
  }

  /** All that comes before the answer to a PINGREQ sent now. What waits for the disk may come after it. */
  async untilPong(): Promise<Packet[]> {
    this.send({ cmd: 'pingreq' });
    const packets: Packet[] = [];
    for (;;) {
      const packet = await this.next();
      if (packet.cmd === 'pingresp') return packets;
      packets.push(packet);
    }
  }

  /** Reads nothing until `read`. */
  stopReading(): void {
    this.#socket.pause();
  }

  read(): void {
    this.#socket.resume();
  }

  get pending(): number {
    return this.#received.pending;
  }

  /** Goes away without a word. */
  vanish(): void {
    this.#socket.destroy();
  }

  async disconnect(): Promise<void> {
    this.send({ cmd: 'disconnect' });
    await this.closed;
  }
}

let nth = 0;

export function connectPacket(key: ProgramKey, options: Partial<IConnectPacket> = {}): IConnectPacket {
  nth += 1;
  return {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 4,
    clean: true,
    clientId: `program-${nth}`,
    keepalive: 0,
    username: key.id,
    password: Buffer.from(key.key),
    ...options,
  };
}

/** A program that is connected, and the CONNACK that it got. */
export async function connectRaw(
  server: LiveServer,
  key: ProgramKey,
  options: Partial<IConnectPacket> = {},
): Promise<RawClient & { readonly sessionPresent: boolean }> {
  const client = new RawClient(server.mqttPort);
  client.send(connectPacket(key, options));
  const connack = await client.next();
  if (connack.cmd !== 'connack' || connack.returnCode !== 0) throw new Error(`CONNACK ${JSON.stringify(connack)}`);
  return Object.assign(client, { sessionPresent: connack.sessionPresent });
}
