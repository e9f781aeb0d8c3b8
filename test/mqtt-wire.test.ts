import { connect, type Socket } from 'node:net';
import { generate, parser, type Packet } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer } from './live-server.ts';

let server: LiveServer;
let nth = 0;

beforeAll(async () => {
  server = await LiveServer.start();
});

afterAll(() => server.close());

/** A device that says just the octets that a test gives it. */
class RawDevice {
  readonly id: string;
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #packets: Packet[] = [];
  #arrived: () => void = () => {};

  constructor(id: string, socket: Socket) {
    this.id = id;
    this.#socket = socket;
    const incoming = parser();
    incoming.on('packet', (packet: Packet) => {
      this.#packets.push(packet);
      this.#arrived();
    });
    socket.on('data', (chunk: Buffer) => incoming.parse(chunk));
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
  }

  /** Octets in pieces of these lengths, over and over, each in a write of its own. */
  async send(octets: Buffer, pieces: readonly number[] = [octets.length]): Promise<void> {
    for (let at = 0, i = 0; at < octets.length; i += 1) {
      const end = at + (pieces[i % pieces.length] ?? 1);
      const piece = octets.subarray(at, end);
      await new Promise<void>((resolve) => this.#socket.write(piece, () => setImmediate(resolve)));
      at = end;
    }
  }

  async next(): Promise<Packet> {
    for (;;) {
      const packet = this.#packets.shift();
      if (packet !== undefined) return packet;
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
  }

  /** The ids of the next `count` PUBACKs, in the order in which they came. */
  async acknowledged(count: number): Promise<number[]> {
    const ids: number[] = [];
    while (ids.length < count) {
      const packet = await this.next();
      if (packet.cmd === 'puback' && packet.messageId !== undefined) ids.push(packet.messageId);
    }
    return ids;
  }

  end(): void {
    this.#socket.destroy();
  }
}

async function rawDevice(): Promise<RawDevice> {
  nth += 1;
  const id = `raw-${nth}`;
  const password = Buffer.from(await server.createDevice(id));
  const socket = connect({ port: server.mqttPort, host: '127.0.0.1', noDelay: true });
  const device = new RawDevice(id, socket);
  await device.send(
    generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clean: true,
      clientId: id,
      keepalive: 0,
      username: id,
      password,
    }),
  );
  expect(await device.next()).toMatchObject({ cmd: 'connack', returnCode: 0 });
  return device;
}

function publish(topic: string, payload: string | Buffer, messageId: number, qos: 0 | 1 = 1): Buffer {
  return generate({ cmd: 'publish', topic, payload, qos, messageId, dup: false, retain: false });
}

async function values(deviceId: string, metric: string): Promise<unknown[]> {
  const path = `/v1/devices/${deviceId}/telemetry?metric=${metric}&limit=10000`;
  const { body } = await server.request<{ points: { value: unknown }[] }>('GET', path);
  return body.points.map(({ value }) => value);
}

async function rejects(deviceId: string): Promise<{ code: string }[]> {
  return (await server.request<{ rejects: { code: string }[] }>('GET', `/v1/devices/${deviceId}/rejects`)).body.rejects;
}

describe('what a device sends', () => {
  test.each([
    ['octet by octet', [1]],
    ['in uneven pieces', [2, 3, 50, 1, 7, 120, 33]],
    ['in one piece', [1_000_000]],
  ])('arrives the same %s: each reading once, PUBACKs in its order', async (_, pieces) => {
    const device = await rawDevice();
    const topic = `devices/${device.id}/telemetry`;
    const packets: Buffer[] = [];
    const wanted: number[] = [];
    for (let id = 1; id <= 60; id += 1) {
      if (id % 6 === 0) {
        // By another way through the server than plain telemetry: a report, another alphabet, an array, a fault, a long one.
        const others = [
          publish(`devices/${device.id}/commands/none`, '{"state":"running"}', id),
          publish(topic, `{"n":${id},"town":"Košice"}`, id),
          publish(topic, `[{"n":${id}}]`, id),
          publish(topic, `{"n":null}`, id),
          publish(topic, `{"n":${id},"text":"${'x'.repeat(1_000)}"}`, id),
        ];
        packets.push(others[(id / 6) % others.length] ?? Buffer.alloc(0));
      } else {
        packets.push(publish(topic, `{"n":${id}}`, id));
      }
      if (id % 6 !== 0 || [1, 2, 4].includes((id / 6) % 5)) wanted.push(id);
      if (id % 20 === 0) packets.push(generate({ cmd: 'pingreq' }), publish(topic, `{"unheard":${id}}`, 0, 0));
    }
    await device.send(Buffer.concat(packets), pieces);
    expect(await device.acknowledged(60)).toEqual(Array.from({ length: 60 }, (_n, i) => i + 1));
    expect(await values(device.id, 'n')).toEqual(wanted);
    expect((await rejects(device.id)).map(({ code }) => code).toSorted()).toEqual([
      'invalid_telemetry',
      'invalid_telemetry',
      'unknown_command',
      'unknown_command',
    ]);
    device.end();
  });

  test('after DISCONNECT is not heard', async () => {
    const device = await rawDevice();
    const topic = `devices/${device.id}/telemetry`;
    await device.send(publish(topic, '{"n":1}', 1));
    expect(await device.acknowledged(1)).toEqual([1]);
    await device.send(generate({ cmd: 'disconnect' }));
    await device.closed;
    expect(await values(device.id, 'n')).toEqual([1]);
  });

  test('a length of more than four octets ends the connection [MQTT-2.2.3]', async () => {
    const device = await rawDevice();
    await device.send(Buffer.from([0x32, 0xff, 0xff, 0xff, 0xff, 0x01]));
    await device.closed;
  });

  test('telemetry on the topic of another device of a name as long is refused', async () => {
    const [victim, device] = [await rawDevice(), await rawDevice()];
    await device.send(publish(`devices/${victim.id.padEnd(device.id.length, '0')}/telemetry`, '{"n":1}', 7));
    expect(await device.acknowledged(1)).toEqual([7]);
    expect((await rejects(device.id)).map(({ code }) => code)).toEqual(['foreign_topic']);
    expect(await values(victim.id, 'n')).toEqual([]);
    victim.end();
    device.end();
  });

  test('a burst of thousands on one connection is all acknowledged in order and all stored', async () => {
    const device = await rawDevice();
    const count = 5_000;
    const burst = Array.from({ length: count }, (_, i) => publish(`devices/${device.id}/telemetry`, `{"n":${i}}`, i + 1));
    await device.send(Buffer.concat(burst));
    expect(await device.acknowledged(count)).toEqual(Array.from({ length: count }, (_, i) => i + 1));
    expect(await values(device.id, 'n')).toEqual(Array.from({ length: count }, (_, i) => i));
    device.end();
  });
});
