import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { generate, type Packet } from 'mqtt-packet';
import { afterEach, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { DEFAULT_BOUNDS, type BoundName, type Bounds } from '../broker/bounds.ts';
import { BURST_SECONDS } from '../broker/limits/token-bucket.ts';
import { LiveServer, type MqttDevice } from './live-server.ts';
import { connectPacket, connectRaw, createKey, RawClient } from './raw-client.ts';

/** Each bound over MQTT reached by a client, with a well-behaved one beside it. */
let server: LiveServer;
let healthy: MqttDevice;

afterEach(async () => {
  await healthy.end();
  await server.close();
});

async function start(bounds: Partial<Bounds>): Promise<void> {
  server = await LiveServer.start({ bounds: { ...DEFAULT_BOUNDS, ...bounds } });
  healthy = await server.connect('healthy', await server.createDevice('healthy'));
  await healthy.subscribe('commands');
}

/** Its readings are taken and its commands come. */
async function isWell(): Promise<void> {
  await healthy.publish('telemetry', { temperature: 21 });
  const { id } = await server.issue('healthy', { name: 'show', confirm: 'delivery' });
  await server.commandIn(id, 'succeeded');
}

async function reached(bound: BoundName): Promise<number> {
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  return Number(new RegExp(`downlink_bound_reached_total\\{bound="${bound}"\\} (\\d+)`).exec(metrics)?.[1]);
}

type Reject = { readonly code: string; readonly message: string; readonly where: string };

/** Once there is any: they are written after the connection's end. */
async function rejectsOf(id: string): Promise<Reject[]> {
  for (;;) {
    const { body } = await server.request<{ rejects: Reject[] }>('GET', `/v1/devices/${id}/rejects`);
    if (body.rejects.length > 0) return body.rejects;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function deviceConnect(id: string, token: string, more = {}): Packet {
  const connecting = connectPacket({ id, key: token }, { clientId: id, ...more });
  return connecting;
}

async function connectDevice(id: string, token: string): Promise<RawClient> {
  const client = new RawClient(server.mqttPort);
  client.send(deviceConnect(id, token));
  expect(await client.next()).toMatchObject({ cmd: 'connack', returnCode: 0 });
  return client;
}

function telemetry(id: string, messageId: number, payload = '{"n":1}'): Packet {
  return { cmd: 'publish', topic: `devices/${id}/telemetry`, payload, qos: 1, messageId, dup: false, retain: false };
}

describe('before its login', () => {
  test('a connection has so long, whether it says nothing, a part or too slowly', async () => {
    await start({ connect_seconds: 1 });
    const silent = new RawClient(server.mqttPort);
    const partial = new RawClient(server.mqttPort);
    partial.send(Buffer.from([0x10, 0x40, 0x00, 0x04]));
    await Promise.all([silent.closed, partial.closed]);
    expect(await reached('connect_seconds')).toBe(2);
    await isWell();
  });

  test.each([
    ['claims 256 MB', Buffer.from([0x10, 0xff, 0xff, 0xff, 0x7f])],
    ['is no CONNECT', generate({ cmd: 'pingreq' })],
    ['is a PUBLISH that claims 256 MB', Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f])],
    ['is no MQTT', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ])('a connection whose first packet %s is closed before more is read', async (_, octets) => {
    await start({});
    const client = new RawClient(server.mqttPort);
    client.send(octets);
    expect(await client.nextOrEnd()).toBeUndefined();
    expect(await reached('connect_bytes')).toBe(1);
    await isWell();
  });

  test('a CONNECT may be as large as the bound says, and no larger; what follows it may be larger', async () => {
    await start({ connect_bytes: 1_024 });
    const token = await server.createDevice('device');
    const will = (octets: number) => ({
      will: { topic: 'devices/device/telemetry', payload: Buffer.alloc(octets, 'x'), qos: 0 as const, retain: false },
    });
    const large = new RawClient(server.mqttPort);
    large.send(deviceConnect('device', token, will(1_000)));
    expect(await large.nextOrEnd()).toBeUndefined();
    const client = new RawClient(server.mqttPort);
    client.send(deviceConnect('device', token, will(500)), telemetry('device', 1, JSON.stringify({ note: 'x'.repeat(1_000) })));
    expect(await client.take(2)).toMatchObject([{ cmd: 'connack', returnCode: 0 }, { cmd: 'puback' }]);
    client.vanish();
  });
});

describe('wrong credentials', () => {
  test('bring a pause, told by CONNACK 3, in which who was let in before comes in again, and which ends', async () => {
    await start({ wrong_credentials: 5, login_pause: 1 });
    const [known, late] = [await server.createDevice('known'), await server.createDevice('late')];
    (await connectDevice('known', known)).vanish();
    const answerTo = async (id: string, token: string): Promise<number | undefined> => {
      const client = new RawClient(server.mqttPort);
      client.send(deviceConnect(id, token));
      const packet = await client.next();
      client.vanish();
      return packet.cmd === 'connack' ? packet.returnCode : undefined;
    };
    for (let n = 0; n < 5; n += 1) expect(await answerTo('known', 'wrong')).toBe(4);
    expect(await answerTo('late', late)).toBe(3);
    expect(await answerTo('known', 'wrong')).toBe(3);
    expect(await answerTo('known', known)).toBe(0);
    expect(await reached('wrong_credentials')).toBeGreaterThan(1);
    await isWell();
    for (;;) if ((await answerTo('late', late)) === 0) break;
  });
});

describe('a client that sends faster than it may', () => {
  test('is read more slowly; all that it sent is stored, and it is told why', async () => {
    await start({ messages_per_second: 20 });
    const wild = await server.connect('wild', await server.createDevice('wild'));
    await wild.subscribe('errors');
    const count = 20 * BURST_SECONDS + 30;
    const sent = Array.from({ length: count }, (_, n) => wild.publish('telemetry', { ts: Date.now() + n, values: { n } }));
    await isWell();
    expect((await wild.next()).body).toMatchObject({
      code: 'rate_limited',
      message: expect.stringMatching(/^messages_per_second/),
    });
    await Promise.all(sent);
    const { body } = await server.request<{ points: { count: number }[] }>(
      'GET',
      '/v1/devices/wild/telemetry?metric=n&fn=count&window=365d',
    );
    expect(body.points.reduce((sum, point) => sum + point.count, 0)).toBe(count);
    expect(await rejectsOf('wild')).toMatchObject([{ code: 'rate_limited' }]);
    expect(await reached('messages_per_second')).toBe(1);
    await wild.end();
  });

  test('by other packets than telemetry is slowed as well, as by its octets', async () => {
    await start({ messages_per_second: 10, bytes_per_second: 2_048 });
    const pinging = await connectDevice('pinging', await server.createDevice('pinging'));
    pinging.send(...Array.from({ length: 120 }, (): Packet => ({ cmd: 'pingreq' })));
    pinging.send({ cmd: 'pingreq' });
    await pinging.take(121);
    expect(await reached('messages_per_second')).toBe(1);
    const large = await connectDevice('large', await server.createDevice('large'));
    const packets = Array.from({ length: 4 }, (_, n) =>
      telemetry(
        'large',
        n + 1,
        JSON.stringify({
          [`n${n}`]: 'x'.repeat(1_000),
          m: 'y'.repeat(1_000),
          o: 'z'.repeat(1_000),
          p: 'z'.repeat(1_000),
          q: 'z'.repeat(1_000),
          r: 'z'.repeat(1_000),
        }),
      ),
    );
    large.send(...packets);
    await large.take(4);
    large.send({ cmd: 'pingreq' });
    await large.take(1);
    expect(await reached('bytes_per_second')).toBe(1);
    pinging.vanish();
    large.vanish();
    await isWell();
  });

  test('and goes on so is closed, and told why before', async () => {
    await start({ messages_per_second: 5, slowed_seconds: 1 });
    const token = await server.createDevice('wild');
    const wild = await connectDevice('wild', token);
    let messageId = 0;
    const flood = setInterval(() => {
      wild.send(...Array.from({ length: 20 }, () => telemetry('wild', (messageId += 1))));
    }, 50);
    await wild.closed;
    clearInterval(flood);
    expect(await reached('slowed_seconds')).toBe(1);
    expect(await rejectsOf('wild')).toMatchObject([{ code: 'rate_limited', where: 'connection' }]);
    await isWell();
  });

  test('by filters of a SUBSCRIBE is slowed as well', async () => {
    await start({ messages_per_second: 10 });
    const client = await connectDevice('wild', await server.createDevice('wild'));
    const subscriptions = Array.from({ length: 110 }, (_, n) => ({ topic: `devices/wild/${n}`, qos: 0 as const }));
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions });
    expect(await client.next()).toMatchObject({ cmd: 'suback', granted: subscriptions.map(() => 0x80) });
    client.send({ cmd: 'pingreq' });
    expect(await client.next()).toMatchObject({ cmd: 'pingresp' });
    expect(await reached('messages_per_second')).toBe(1);
    client.vanish();
  });
});

describe('what lasts too long', () => {
  test('a packet that does not come whole closes its connection; one that comes slowly enough does not', async () => {
    await start({ packet_seconds: 1 });
    const slow = await connectDevice('slow', await server.createDevice('slow'));
    const packet = generate(telemetry('slow', 1));
    slow.send(packet.subarray(0, 5));
    slow.send(packet.subarray(5));
    expect(await slow.next()).toMatchObject({ cmd: 'puback' });
    slow.send(packet.subarray(0, 5));
    expect(await slow.nextOrEnd()).toBeUndefined();
    expect(await reached('packet_seconds')).toBe(1);
    expect(await rejectsOf('slow')).toMatchObject([{ code: 'rate_limited' }]);
    await isWell();
  });

  test('a client that is silent is closed, with keepalive 0 and 65535 alike; one that pings is not', async () => {
    await start({ idle_seconds: 1 });
    const alive = setInterval(() => healthy.client.sendPing(), 100);
    const silent = await Promise.all(
      [0, 65_535].map(async (keepalive) => {
        const client = new RawClient(server.mqttPort);
        const id = `silent-${keepalive}`;
        client.send(deviceConnect(id, await server.createDevice(id), { keepalive }));
        return client;
      }),
    );
    await Promise.all(silent.map(({ closed }) => closed));
    expect(await reached('idle_seconds')).toBe(2);
    await isWell();
    clearInterval(alive);
  });
});

describe('sizes', () => {
  test('a packet that says it is larger than may be closes its connection, and the device finds that among its rejects', async () => {
    await start({ packet_bytes: 4_096 });
    const client = await connectDevice('large', await server.createDevice('large'));
    client.send(Buffer.from([0x32, 0xff, 0xff, 0xff, 0x7f]));
    expect(await client.nextOrEnd()).toBeUndefined();
    expect(await reached('packet_bytes')).toBe(1);
    expect(await rejectsOf('large')).toMatchObject([{ code: 'body_too_large', where: 'connection' }]);
    await isWell();
  });

  test('a WebSocket message may be as large as a CONNECT before its login, in one frame or many, and as large as a packet after it', async () => {
    await start({ connect_bytes: 1_024, packet_bytes: 8_192 });
    const token = await server.createDevice('device');
    const open = async (): Promise<WebSocket> => {
      const socket = new WebSocket(`${server.url.replace('http', 'ws')}/mqtt`, 'mqtt');
      await once(socket, 'open');
      return socket;
    };
    const codeOf = async (socket: WebSocket): Promise<unknown> => (await once(socket, 'close'))[0] as unknown;
    const answer = async (socket: WebSocket): Promise<number> => ((await once(socket, 'message')) as [Buffer])[0][0]! >>> 4;

    const early = await open();
    early.send(Buffer.alloc(2_000));
    expect(await codeOf(early)).toBe(1009);
    const inFrames = await open();
    for (let n = 0; n < 2; n += 1) inFrames.send(Buffer.alloc(1_000), { fin: false });
    expect(await codeOf(inFrames)).toBe(1009);
    expect(await reached('connect_bytes')).toBe(2);

    const socket = await open();
    socket.send(generate(deviceConnect('device', token)));
    expect(await answer(socket)).toBe(2);
    const values = Object.fromEntries(Array.from({ length: 7 }, (_, n) => [`m${n}`, 'x'.repeat(1_000)]));
    socket.send(generate(telemetry('device', 1, JSON.stringify(values))));
    expect(await answer(socket)).toBe(4);
    socket.send(Buffer.alloc(9_000));
    expect(await codeOf(socket)).toBe(1009);
    expect(await reached('packet_bytes')).toBe(1);
    // It is kept while the connection ends.
    await expect.poll(() => rejectsOf('device')).toMatchObject([{ code: 'body_too_large', where: 'connection' }]);
    await isWell();
  });

  test('a topic longer or deeper than may be is refused', async () => {
    await start({ topic_bytes: 300, topic_levels: 5 });
    const key = await createKey(server);
    const program = await connectRaw(server, key);
    const subscribe = (topic: string): Packet => ({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 0 }] });
    program.send(subscribe('x'.repeat(300)));
    expect(await program.next()).toMatchObject({ granted: [0] });
    program.send(subscribe('x'.repeat(301)));
    expect(await program.next()).toMatchObject({ granted: [0x80] });
    program.send(subscribe('ü'.repeat(151)));
    expect(await program.next()).toMatchObject({ granted: [0x80] });
    const publish = (topic: string): Packet => ({ cmd: 'publish', topic, payload: '', qos: 0, dup: false, retain: false });
    program.send(publish('x'.repeat(301)));
    expect(await program.nextOrEnd()).toBeUndefined();
    const willful = new RawClient(server.mqttPort);
    const will = { topic: 'x'.repeat(301), payload: Buffer.from(''), qos: 0 as const, retain: false };
    willful.send(connectPacket(key, { will }));
    expect(await willful.nextOrEnd()).toBeUndefined();
    expect(await reached('topic_bytes')).toBe(4);
    const deep = await connectRaw(server, key);
    deep.send(subscribe('a/b/c/d/e'));
    expect(await deep.next()).toMatchObject({ granted: [0] });
    deep.send(publish('a/b/c/d/e/f'));
    expect(await deep.nextOrEnd()).toBeUndefined();
    expect(await reached('topic_levels')).toBe(1);
    await isWell();
  });

  test.each([5, 100])('a topic, filter or will of more than %i levels closes its connection, and counts', async (levelsMax) => {
    await start({ topic_levels: levelsMax });
    const deep = Array.from({ length: levelsMax + 1 }, () => 'a').join('/');
    const key = await createKey(server);
    const packets: Packet[] = [
      { cmd: 'publish', topic: deep, payload: '', qos: 0, dup: false, retain: false },
      { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: deep, qos: 0 }] },
      { cmd: 'unsubscribe', messageId: 1, unsubscriptions: [deep] },
    ];
    for (const packet of packets) {
      const client = await connectRaw(server, key);
      client.send(packet);
      expect(await client.nextOrEnd()).toBeUndefined();
    }
    const will = { topic: deep, payload: Buffer.from('x'), qos: 0 as const, retain: false };
    for (const older of [{}, { protocolId: 'MQIsdp' as const, protocolVersion: 3 as const }]) {
      const client = new RawClient(server.mqttPort);
      client.send(connectPacket(key, { will, clientId: 'deep', ...older }));
      expect(await client.nextOrEnd()).toBeUndefined();
    }
    expect(await reached('topic_levels')).toBe(5);
    const device = await connectDevice('deep', await server.createDevice('deep'));
    device.send(packets[0]!);
    expect(await device.nextOrEnd()).toBeUndefined();
    expect(await rejectsOf('deep')).toMatchObject([{ code: 'unknown_topic', where: 'connection' }]);
    await isWell();
  });

  test('a program has so many subscriptions, and after giving one up another', async () => {
    await start({ subscriptions: 3 });
    const program = await connectRaw(server, await createKey(server));
    const subscribe = (...topics: string[]): Packet => ({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: topics.map((topic) => ({ topic, qos: 0 })),
    });
    program.send(subscribe('a', 'b', 'c', 'd'));
    expect(await program.next()).toMatchObject({ granted: [0, 0, 0, 0x80] });
    program.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: ['a'] });
    expect(await program.next()).toMatchObject({ cmd: 'unsuback' });
    program.send(subscribe('d'));
    expect(await program.next()).toMatchObject({ granted: [0] });
    expect(await reached('subscriptions')).toBe(1);
  });
});

test('connections of an address beyond the bound are closed at once; another address has its own', async () => {
  await start({ connections_per_address: 6 });
  const open = async (localAddress: string): Promise<Socket> => {
    const socket = connect({ port: server.mqttPort, host: '127.0.0.1', localAddress });
    socket.on('error', () => {});
    await once(socket, 'connect');
    return socket;
  };
  const sockets = await Promise.all(Array.from({ length: 8 }, () => open('127.0.0.2')));
  const closed = sockets.filter((socket) => socket.destroyed);
  while (closed.length < 2) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    closed.splice(0, closed.length, ...sockets.filter((socket) => socket.destroyed || socket.readableEnded));
    for (const socket of sockets) socket.resume();
  }
  expect(closed).toHaveLength(2);
  expect(await reached('connections_per_address')).toBe(2);
  await isWell();
  for (const socket of sockets) socket.destroy();
});
