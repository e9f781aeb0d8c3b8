import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectPacket, PINGREQ, publishPacket, RawMqtt, remainingLength, subscribePacket } from './attacks/raw-mqtt.ts';
import { AttackedServer } from './healthy-device.ts';

/** Attacks with connections: many, slow, silent, or strangers' ones. */
let server: AttackedServer;

beforeAll(async () => {
  // What must end in time is to be seen ending.
  server = await AttackedServer.start({
    DOWNLINK_CONNECT_SECONDS_MAX: '2',
    DOWNLINK_PACKET_SECONDS_MAX: '2',
    DOWNLINK_IDLE_SECONDS_MAX: '3',
  });
});

afterAll(() => server.close());

async function device(id: string): Promise<string> {
  return server.live.createDevice(id);
}

describe('a connection that never says CONNECT', () => {
  test.each([
    ['PINGREQ', PINGREQ],
    ['PUBLISH', publishPacket('devices/healthy/telemetry', '{"n":1}')],
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['a TLS ClientHello', Buffer.from('16030100a5010000a10303', 'hex')],
    ['a CONNECT of 256 MB', Buffer.concat([Buffer.from([0x10]), remainingLength(268_435_455), Buffer.alloc(1_000_000)])],
    ['a PUBLISH of 256 MB', Buffer.concat([Buffer.from([0x30]), remainingLength(268_435_455), Buffer.alloc(1_000_000)])],
    ['a length of five octets', Buffer.from([0x10, 0xff, 0xff, 0xff, 0xff, 0x7f])],
    ['type 0', Buffer.from([0, 0])],
    ['type 15', Buffer.from([0xf0, 0])],
  ])('is closed without an answer: %s', async (name, octets) => {
    await server.withstands(`first packet ${name}`, async () => {
      const client = await RawMqtt.open(server.mqttPort);
      client.send(octets);
      expect(await client.next()).toBeUndefined();
    });
  });

  test('and nothing else either is closed when its time is up, by the thousand', { timeout: 60_000 }, async () => {
    await server.withstands('2,000 half-open connects', async () => {
      const sockets = await Promise.all(Array.from({ length: 2_000 }, (_, i) => halfOpen(i)));
      await Promise.all(sockets.map(({ closed }) => closed));
    });
  });
});

/** Connects, and says nothing, or half of a CONNECT. */
async function halfOpen(n: number): Promise<{ closed: Promise<void> }> {
  await new Promise((resolve) => setTimeout(resolve, n));
  const client = await RawMqtt.open(server.mqttPort);
  if (n % 2 === 1) client.send(connectPacket('nobody', 'x'.repeat(40)).subarray(0, 1 + (n % 30)));
  return client;
}

test('a CONNECT that drips in octet by octet is closed when its time is up', async () => {
  await server.withstands('slow CONNECT', async () => {
    const client = await RawMqtt.open(server.mqttPort);
    await drip(client, connectPacket('nobody', 'x'.repeat(40)));
    expect(client.isClosed).toBe(true);
  });
});

test('a packet that drips in octet by octet is closed when its time is up, and nothing of it is kept', async () => {
  const token = await device('dripper');
  await server.withstands('slow PUBLISH', async () => {
    const client = await RawMqtt.login(server.mqttPort, 'dripper', token);
    await drip(client, publishPacket('devices/dripper/telemetry', '{"never":1}'));
    expect(client.isClosed).toBe(true);
  });
  const { body } = await server.live.request('GET', '/v1/devices/dripper/telemetry?metric=never');
  expect(body).toMatchObject({ points: [] });
});

/** An octet a second, until the server has had enough. */
async function drip(client: RawMqtt, octets: Buffer): Promise<void> {
  for (const octet of octets) {
    client.send(Buffer.from([octet]));
    await Promise.race([client.closed, new Promise((resolve) => setTimeout(resolve, 1_000))]);
    if (client.isClosed) return;
  }
}

test.each([[65_535], [0]])('silence with keepalive %i is ended', async (keepalive) => {
  const id = `silent-${keepalive}`;
  const token = await device(id);
  await server.withstands(`silence, keepalive ${keepalive}`, async () => {
    const client = await RawMqtt.login(server.mqttPort, id, token, { keepalive });
    await client.closed;
  });
});

test('a device that sends and never reads is not waited for', { timeout: 60_000 }, async () => {
  const token = await device('deaf');
  await server.withstands('slow reader', async () => {
    const client = await RawMqtt.login(server.mqttPort, 'deaf', token);
    client.send(subscribePacket(['devices/deaf/errors']));
    await client.next();
    client.socket.pause();
    // Each is refused, acknowledged and told of on its errors topic, which it does not read.
    const refused = publishPacket('devices/deaf/telemetry', `{"x":[${'1,'.repeat(2_000)}1]}`);
    for (let n = 0; n < 5_000 && !client.isClosed; n += 1) {
      if (!client.send(refused))
        await Promise.race([drained(client.socket), client.closed, new Promise((r) => setTimeout(r, 200))]);
      if (client.socket.writableLength > 8_000_000) break;
    }
    client.end();
  });
});

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once('drain', () => resolve()));
}

test('ten connects with one id at once: one is left, and it works', async () => {
  const token = await device('crowd');
  await server.withstands('ten connects with one id', async () => {
    for (let round = 0; round < 20; round += 1) {
      const clients = await Promise.all(Array.from({ length: 10 }, () => RawMqtt.open(server.mqttPort)));
      for (const client of clients) client.send(connectPacket('crowd', token));
      const open = async (): Promise<RawMqtt[]> => {
        await Promise.all(clients.map((client) => client.untilPong()));
        return clients.filter((client) => !client.isClosed);
      };
      let left = await open();
      while (left.length > 1) left = await open();
      expect(left).toHaveLength(1);
      left[0]?.send(publishPacket('devices/crowd/telemetry', `{"round":${round}}`, { messageId: round + 1 }));
      expect(await left[0]?.next()).toMatchObject({ cmd: 'puback', messageId: round + 1 });
      for (const client of clients) client.end();
    }
  });
  const { body } = await server.live.request<{ points: unknown[] }>('GET', '/v1/devices/crowd/telemetry?metric=round');
  expect(body.points).toHaveLength(20);
});

test("another's client id does not take its session: the device stays connected, the thief is refused", async () => {
  const victimToken = await device('victim');
  const thiefToken = await device('thief');
  const victim = await RawMqtt.login(server.mqttPort, 'victim', victimToken);
  await server.withstands("another's client id", async () => {
    for (const more of [
      { username: 'thief', password: Buffer.from(thiefToken) },
      { username: 'victim', password: Buffer.from(thiefToken) },
      { username: 'VICTIM', password: Buffer.from(victimToken) },
      { username: 'victim', password: Buffer.from('') },
    ]) {
      const thief = await RawMqtt.open(server.mqttPort);
      thief.send(connectPacket('victim', thiefToken, more));
      expect(await thief.next()).toMatchObject({
        cmd: 'connack',
        returnCode: expect.toSatisfy((code: number) => [2, 4, 5].includes(code)),
      });
      await thief.closed;
      expect(await victim.untilPong()).toEqual([]);
      expect(victim.isClosed).toBe(false);
    }
  });
  victim.end();
});

test('connections that come and go at once leave nothing behind', { timeout: 60_000 }, async () => {
  const token = await device('hasty');
  await server.withstands('3,000 connections cut at once', async () => {
    for (let wave = 0; wave < 30; wave += 1) {
      await Promise.all(
        Array.from(
          { length: 100 },
          (_, i) =>
            new Promise<void>((resolve) => {
              const socket = connect({ port: server.mqttPort, host: '127.0.0.1' });
              socket.on('error', () => {});
              socket.once('close', () => resolve());
              socket.once('connect', () => {
                if (i % 3 > 0) socket.write(connectPacket('hasty', token));
                if (i % 3 === 2) socket.write(publishPacket('devices/hasty/telemetry', '{"x":1}'));
                if (i % 2 === 0) socket.resetAndDestroy();
                else socket.destroy();
              });
            }),
        ),
      );
    }
  });
});

test('a storm of wrong passwords is refused, and who was let in from there before still is', { timeout: 60_000 }, async () => {
  const token = await device('storm');
  (await RawMqtt.login(server.mqttPort, 'storm', token)).end();
  await server.withstands('connection storm with wrong passwords', async () => {
    const answers = new Set<unknown>();
    for (let wave = 0; wave < 40; wave += 1) {
      await Promise.all(
        Array.from({ length: 50 }, async (_, i) => {
          const client = await RawMqtt.open(server.mqttPort);
          client.send(connectPacket('storm', `dld_${'x'.repeat(40)}${i}`));
          const answer = await client.next();
          answers.add(answer?.cmd === 'connack' ? answer.returnCode : answer);
          await client.closed;
        }),
      );
    }
    expect([...answers].filter((answer) => ![3, 4, 5, undefined].includes(answer as number))).toEqual([]);
  });
  (await RawMqtt.login(server.mqttPort, 'storm', token)).end();
  expect((await server.live.request('GET', '/v1/device/commands', { credential: token })).status).toBe(204);
});
