import { generate } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { publishPacket, RawMqtt, subscribePacket } from './attacks/raw-mqtt.ts';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { ReadingTurns } from '../broker/mqtt/reading-turns.ts';
import { LiveServer } from './live-server.ts';
import { createKey } from './raw-client.ts';

/** What one connection sends at once is dealt with in many turns, and others have theirs between them; its order and its answers are those of one. */
let server: LiveServer;
let nth = 0;

beforeAll(async () => {
  const many = 1_000_000;
  server = await LiveServer.start({ bounds: { ...DEFAULT_BOUNDS, messages_per_second: many, subscriptions: 100_000 } });
});

afterAll(() => server.close());

async function device(more: Parameters<typeof RawMqtt.login>[3] = {}): Promise<{ id: string; token: string; client: RawMqtt }> {
  const id = `device-${(nth += 1)}`;
  const token = await server.createDevice(id);
  return { id, token, client: await RawMqtt.login(server.mqttPort, id, token, more) };
}

/** Pings, one after the other, until `isDone`; how many were answered. */
async function pongsUntil(client: RawMqtt, isDone: () => boolean): Promise<number> {
  let pongs = 0;
  for (; !isDone(); pongs += 1) await client.untilPong();
  return pongs;
}

async function readings(id: string): Promise<number> {
  const { body } = await server.request<{ points: unknown[] }>(
    'GET',
    `/v1/devices/${id}/telemetry?metric=n&from=0&to=${Date.now() + 60_000}&limit=10000`,
  );
  return body.points.length;
}

test('a SUBSCRIBE that names a filter twice has a code for each, and the last one counts [MQTT-3.8.4-5] [MQTT-3.9.3-1]', async () => {
  const { id, client } = await device();
  const [commands, foreign] = [`devices/${id}/commands`, 'devices/other/commands'];
  client.send(subscribePacket([commands, foreign, commands, foreign], 3));
  expect(await client.next()).toMatchObject({ cmd: 'suback', messageId: 3, granted: [1, 0x80, 1, 0x80] });
  client.end();
});

describe('a SUBSCRIBE of 20,000 filters', () => {
  const filters = Array.from({ length: 20_000 }, (_, n) => `devices/other/${n}`);

  test('lets another device have its pings answered between its pieces', async () => {
    const { client: healthy } = await device();
    const { id, client } = await device();
    let isAnswered = false;
    client.send(subscribePacket([...filters, `devices/${id}/commands`], 3));
    const answer = client.next().then((packet) => {
      isAnswered = true;
      return packet;
    });
    // There are 400 pieces, each looked at and then subscribed to.
    expect(await pongsUntil(healthy, () => isAnswered)).toBeGreaterThan(30);
    const suback = await answer;
    expect(suback?.cmd === 'suback' && suback.granted).toEqual([...filters.map(() => 0x80), 1]);
    await server.issue(id, { name: 'blink' });
    for (let packet = await client.next(); ; packet = await client.next()) {
      if (packet?.cmd === 'publish' && packet.topic === `devices/${id}/commands`) break;
      expect(packet).toMatchObject({ cmd: 'publish', topic: `devices/${id}/errors` });
    }
    client.end();
    healthy.end();
  });

  test('is answered before what comes behind it, an UNSUBSCRIBE of as many as well', async () => {
    const { client } = await device();
    const unsubscribe = generate({ cmd: 'unsubscribe', messageId: 4, unsubscriptions: filters });
    client.send(Buffer.concat([subscribePacket(filters, 3), unsubscribe, subscribePacket(['devices/other/1'], 5)]));
    const answers = [await client.next(), await client.next(), await client.next()];
    expect(answers.map((answer) => answer?.cmd)).toEqual(['suback', 'unsuback', 'suback']);
    expect(answers.map((answer) => answer?.messageId)).toEqual([3, 4, 5]);
    client.end();
  });

  test('with one that is no filter at its end closes the connection', async () => {
    const { client } = await device();
    client.send(subscribePacket([...filters, 'a/#/b'], 3));
    expect(await client.next()).toBeUndefined();
  });

  test('that asks for QoS 3 at its end closes the connection', async () => {
    const { client } = await device();
    const packet = subscribePacket(filters, 3);
    packet[packet.length - 1] = 3;
    client.send(packet);
    expect(await client.next()).toBeUndefined();
  });

  test('and the end of the connection at once leaves the server as it was', async () => {
    const { id, token, client } = await device();
    client.send(subscribePacket(filters, 3));
    client.end();
    const again = await RawMqtt.login(server.mqttPort, id, token);
    expect(await again.untilPong()).toEqual([]);
    again.end();
  });
});

test("a program's session keeps thousands of filters of one SUBSCRIBE, and loses them by one UNSUBSCRIBE", async () => {
  const { id, key } = await createKey(server);
  const login = (clean: boolean): Promise<RawMqtt> => RawMqtt.login(server.mqttPort, id, key, { clientId: 'many', clean });
  const filters = Array.from({ length: 2_000 }, (_, n) => `many/${n}`);
  const first = await login(false);
  first.send(subscribePacket(filters, 1));
  const suback = await first.next();
  expect(suback?.cmd === 'suback' && suback.granted).toEqual(filters.map(() => 1));
  first.end();
  const second = await login(false);
  second.send(publishPacket('many/1999', 'x', { qos: 0 }));
  expect(await second.next()).toMatchObject({ cmd: 'publish', topic: 'many/1999' });
  second.send(generate({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: filters }));
  expect(await second.next()).toMatchObject({ cmd: 'unsuback', messageId: 2 });
  second.end();
  const third = await login(false);
  third.send(publishPacket('many/1999', 'x', { qos: 0 }));
  expect(await third.untilPong()).toEqual([]);
  third.end();
});

describe('thousands of messages in one write', () => {
  test('are acknowledged in their order, while another device has its pings answered', async () => {
    const { client: healthy } = await device();
    const { id, client } = await device();
    const ids = Array.from({ length: 10_000 }, (_, n) => n + 1);
    let isAnswered = false;
    // Readings that are refused are the dearer ones.
    client.send(Buffer.concat(ids.map((messageId) => publishPacket(`devices/${id}/telemetry`, '{"n":[]}', { messageId }))));
    const acknowledged = (async () => {
      const messageIds: (number | undefined)[] = [];
      for (const _ of ids) messageIds.push((await client.next())?.messageId);
      isAnswered = true;
      return messageIds;
    })();
    expect(await pongsUntil(healthy, () => isAnswered)).toBeGreaterThan(30);
    expect(await acknowledged).toEqual(ids);
    client.end();
    healthy.end();
  });

  test('with DISCONNECT and the end of the connection behind them are all taken, and no will is published', async () => {
    const will = { topic: '', payload: Buffer.from('{"will":1}'), qos: 1 as const, retain: false };
    const id = `device-${(nth += 1)}`;
    const token = await server.createDevice(id);
    const client = await RawMqtt.login(server.mqttPort, id, token, { will: { ...will, topic: `devices/${id}/telemetry` } });
    const topic = `devices/${id}/telemetry`;
    const ts = Date.now() - 10_000;
    const messages = Array.from({ length: 5_000 }, (_, n) =>
      publishPacket(topic, `{"ts":${ts + n},"values":{"n":${n}}}`, { qos: 0 }),
    );
    client.send(Buffer.concat([...messages, generate({ cmd: 'disconnect' })]));
    client.socket.end();
    await client.closed;
    while ((await readings(id)) < 5_000) await new Promise((resolve) => setTimeout(resolve, 50));
    const { body } = await server.request<{ points: unknown[] }>('GET', `/v1/devices/${id}/telemetry?metric=will`);
    expect(body.points).toEqual([]);
  });
});

describe('the turns', () => {
  let now = 0;

  test('give each connection a slice, and all of one turn of the event loop some more', async () => {
    const turns = new ReadingTurns(() => now);
    const first = turns.begin();
    expect(turns.isOver(first)).toBe(false);
    now = first;
    expect(turns.isOver(first)).toBe(true);
    now += 100;
    expect(turns.isOver(turns.begin())).toBe(true);
    await new Promise((resolve) => setImmediate(resolve));
    expect(turns.isOver(turns.begin())).toBe(false);
  });

  test('read what has come after all else of the turn, in the order of coming, some of it a turn', async () => {
    const turns = new ReadingTurns(() => now);
    const said: string[] = [];
    for (const name of ['a', 'b', 'c', 'd']) {
      turns.lineUp({
        read: () => {
          said.push(name);
          now += 4;
        },
      });
    }
    said.push('else');
    for (const expected of ['else,a,b', 'else,a,b,c,d']) {
      await new Promise((resolve) => setImmediate(resolve));
      expect(said.join()).toBe(expected);
    }
  });

  test('know only of those that wait, also when the line never ends', async () => {
    const turns = new ReadingTurns(() => now);
    let reads = 0;
    const greedy = {
      read: (): void => {
        reads += 1;
        now += 5;
        if (reads < 100) turns.lineUp(greedy);
      },
    };
    for (let n = 0; n < 3; n += 1) turns.lineUp(greedy);
    while (reads < 100) {
      await new Promise((resolve) => setImmediate(resolve));
      expect(turns.waiting).toBeLessThanOrEqual(3);
    }
  });

  test('let those that wait go on one a turn, in their order', async () => {
    const turns = new ReadingTurns(() => now);
    const said: string[] = [];
    for (const name of ['a', 'b', 'c']) turns.wait(() => said.push(name));
    for (const expected of [['a'], ['a', 'b'], ['a', 'b', 'c']]) {
      await new Promise((resolve) => setImmediate(resolve));
      expect(said).toEqual(expected);
    }
    expect(turns.waiting).toBe(0);
  });
});
