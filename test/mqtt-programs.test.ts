import mqtt from 'mqtt';
import { generate as mqttGenerate } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer } from './live-server.ts';
import { connectPacket, connectRaw, createKey, RawClient, type ProgramKey, type Rights } from './raw-client.ts';

let server: LiveServer;
let key: ProgramKey;

beforeAll(async () => {
  server = await LiveServer.start();
  key = await createKey(server);
});

afterAll(() => server.close());

async function returnCode(options: Parameters<typeof connectPacket>[1], by: ProgramKey = key): Promise<number | undefined> {
  const client = new RawClient(server.mqttPort);
  client.send(connectPacket(by, options));
  const packet = await client.nextOrEnd();
  client.vanish();
  return packet?.cmd === 'connack' ? packet.returnCode : undefined;
}

async function subscribe(client: RawClient, ...topics: string[]): Promise<readonly unknown[]> {
  client.send({ cmd: 'subscribe', messageId: 1, subscriptions: topics.map((topic) => ({ topic, qos: 1 })) });
  const suback = await client.next();
  if (suback.cmd !== 'suback') throw new Error(suback.cmd);
  return suback.granted;
}

function publish(topic: string, payload: string, qos: 0 | 1 | 2 = 1, retain = false, messageId = 7): Buffer {
  const packet = { cmd: 'publish', topic, payload, qos, retain, dup: false, ...(qos > 0 && { messageId }) } as const;
  return mqttGenerate(packet);
}

function dup(packet: Buffer): Buffer {
  packet[0] = (packet[0] ?? 0) | 0x08;
  return packet;
}

describe('a login', () => {
  test('takes a key with rights on MQTT, its id for a username', async () => {
    expect(await returnCode({})).toBe(0);
    expect(await returnCode({ password: Buffer.from('wrong') })).toBe(4);
    const { id, key: secret } = await createKey(server, { allow: [] });
    expect(await returnCode({}, { id: key.id, key: secret })).toBe(4);
    expect(await returnCode({}, { id, key: secret })).toBe(0);
  });

  test('of a key without rights on MQTT is refused with 5', async () => {
    const { body } = await server.request<{ key: { id: string }; secret: string }>('POST', '/v1/keys', {
      body: { name: 'plain', role: 'admin' },
    });
    expect(await returnCode({}, { id: body.key.id, key: body.secret })).toBe(5);
  });

  test('ends with the key, and its sessions with it', async () => {
    const gone = await createKey(server);
    const client = await connectRaw(server, gone, { clean: false, clientId: 'mine' });
    expect((await server.request('DELETE', `/v1/keys/${gone.id}`)).status).toBe(204);
    await client.closed;
    expect(await returnCode({}, gone)).toBe(4);
  });

  test('with new rights begins anew', async () => {
    const changed = await createKey(server, { allow: [{ filter: 'a/#' }] });
    const client = await connectRaw(server, changed);
    expect(await subscribe(client, 'a/b', 'b/a')).toEqual([1, 128]);
    const mqttRights: Rights = { allow: [{ filter: 'b/#' }] };
    expect((await server.request('PATCH', `/v1/keys/${changed.id}`, { body: { mqtt: mqttRights } })).status).toBe(200);
    await client.closed;
    const again = await connectRaw(server, changed);
    expect(await subscribe(again, 'a/b', 'b/a')).toEqual([128, 1]);
    again.vanish();
  });
});

describe('a client id', () => {
  test('is one for each key: another key never meets the session of the first', async () => {
    const other = await createKey(server);
    const mine = await connectRaw(server, key, { clean: false, clientId: 'shared' });
    await subscribe(mine, 'shared/x');
    const theirs = await connectRaw(server, other, { clean: false, clientId: 'shared' });
    expect(theirs.sessionPresent).toBe(false);
    theirs.send(publish('shared/x', 'hello', 0));
    expect(await mine.next()).toMatchObject({ topic: 'shared/x' });
    expect(await theirs.untilPong()).toEqual([]);
    mine.vanish();
    theirs.vanish();
  });

  test('of a device is not taken over by a program, nor the other way round', async () => {
    const token = await server.createDevice('twin');
    const device = await server.connect('twin', token);
    const program = await connectRaw(server, key, { clientId: 'twin' });
    expect(await program.untilPong()).toEqual([]);
    expect(device.client.connected).toBe(true);
    await device.publish('telemetry', { n: 1 });
    program.vanish();
    await device.end();
  });

  test('is held by the newest of ten connects at once', async () => {
    const clients = Array.from({ length: 10 }, () => new RawClient(server.mqttPort));
    for (const client of clients) client.send(connectPacket(key, { clientId: 'ten', clean: false }));
    const last = await connectRaw(server, key, { clientId: 'ten', clean: false });
    await Promise.all(clients.map(({ closed }) => closed));
    expect(await last.untilPong()).toEqual([]);
    last.vanish();
  });
});

describe('rights', () => {
  test('what is not allowed is refused with 0x80 or not passed on, and the connection stays', async () => {
    const limited = await createKey(server, { allow: [{ filter: 'plant/#' }], deny: [{ filter: 'plant/secret/#' }] });
    const client = await connectRaw(server, limited);
    const witness = await connectRaw(server, key);
    await subscribe(witness, '#');
    expect(await subscribe(client, 'plant/a', '#', 'plant/secret/x', 'plant/#', 'devices/#', '$SYS/#')).toEqual([
      1, 128, 128, 128, 128, 128,
    ]);
    for (const topic of ['else', 'plant/secret/a', 'devices/d/telemetry', '$SYS/x', 'plant/a']) client.send(publish(topic, 'x'));
    const answers = (await client.take(6)).map(({ cmd }) => cmd);
    expect(answers.filter((cmd) => cmd === 'puback').length).toBe(5);
    const heard = (await witness.untilPong()).map((packet) => (packet as { topic?: string }).topic);
    expect(heard).toEqual(['plant/a']);
    client.vanish();
    witness.vanish();
  });

  test('a refused filter stays refused after a reconnect, with clean session 0', async () => {
    const limited = await createKey(server, { allow: [{ filter: 'ok' }] });
    const options = { clean: false, clientId: 'allowed-denied' };
    const client = await connectRaw(server, limited, options);
    expect(await subscribe(client, 'ok', 'denied')).toEqual([1, 128]);
    client.vanish();
    await client.closed;
    const publisher = await connectRaw(server, key);
    publisher.send(publish('denied', 'x'), publish('ok', 'y'));
    await publisher.take(2);
    const again = await connectRaw(server, limited, options);
    expect(again.sessionPresent).toBe(true);
    expect(await again.next()).toMatchObject({ topic: 'ok' });
    publisher.send(publish('denied', 'x'));
    await publisher.take(1);
    expect(await again.untilPong()).toEqual([]);
    again.vanish();
    publisher.vanish();
  });

  test('a will goes nowhere that the program may not publish to', async () => {
    const witness = await connectRaw(server, key);
    await subscribe(witness, 'wills/#', 'devices/+/telemetry');
    for (const topic of ['devices/twin/telemetry', 'wills/ok']) {
      const will = { topic, payload: Buffer.from('gone'), qos: 1 as const, retain: false };
      (await connectRaw(server, key, { will })).vanish();
    }
    expect(await witness.next()).toMatchObject({ topic: 'wills/ok' });
    expect((await witness.untilPong()).filter(({ cmd }) => cmd === 'publish')).toEqual([]);
    witness.vanish();
  });

  test('$SYS is seen by who may see it', async () => {
    const seeing = await connectRaw(server, await createKey(server, { allow: [{ filter: '$SYS/#', subscribe: true }] }));
    expect(await subscribe(seeing, '$SYS/#')).toEqual([1]);
    const seen = async (topic: string): Promise<void> => {
      while (((await seeing.next()) as { topic: string }).topic !== topic);
    };
    (await connectRaw(server, key)).vanish();
    await seen('$SYS/downlink/new/clients');
    await seen('$SYS/downlink/disconnect/clients');
    seeing.vanish();
  });
});

describe("devices' messages", () => {
  test('are followed as they were published, and never go back to devices', async () => {
    const token = await server.createDevice('followed');
    const device = await server.connect('followed', token);
    const program = await connectRaw(
      server,
      await createKey(server, { allow: [{ filter: 'devices/+/telemetry', subscribe: true }] }),
    );
    await subscribe(program, 'devices/+/telemetry');
    await device.publish('telemetry', { n: 1 });
    await device.publish('telemetry', '{"n": "no \\u00e9"}', 2);
    await device.publish('telemetry', 'not JSON');
    await device.publish('telemetry', { n: 3 }, 0);
    const heard = [await program.next(), await program.next(), await program.next()].map((packet) => {
      const { topic, payload, qos, retain } = packet as { topic: string; payload: Buffer; qos: number; retain: boolean };
      return [topic, payload.toString(), qos, retain];
    });
    expect(heard).toEqual([
      ['devices/followed/telemetry', '{"n":1}', 1, false],
      ['devices/followed/telemetry', '{"n": "no \\u00e9"}', 1, false],
      ['devices/followed/telemetry', '{"n":3}', 0, false],
    ]);
    expect(await program.untilPong()).toEqual([]);
    program.vanish();
    await device.end();
  });
});

describe('a restart', () => {
  test('keeps sessions, queues, retained messages and QoS 2 under way; wills are told', async () => {
    const options = { clean: false, clientId: 'lasting' };
    const will = { topic: 'r/will', payload: Buffer.from('gone'), qos: 1 as const, retain: false };
    const client = await connectRaw(server, key, options);
    await subscribe(client, 'r/#');
    client.vanish();
    await client.closed;
    const publisher = await connectRaw(server, key, { clean: false, clientId: 'publisher', will });
    for (let n = 1; n <= 20; n += 1) publisher.send(publish('r/x', String(n), 1, n === 20, n));
    publisher.send(publish('r/two', 'once', 2, false, 99));
    const answers = await publisher.take(21);
    expect(answers.at(-1)).toMatchObject({ cmd: 'pubrec', messageId: 99 });
    await server.restart();

    const again = await connectRaw(server, key, options);
    expect(again.sessionPresent).toBe(true);
    const sender = await connectRaw(server, key, { clean: false, clientId: 'publisher' });
    sender.send(Buffer.concat([dup(publish('r/two', 'once', 2, false, 99)), mqttGenerate({ cmd: 'pubrel', messageId: 99 })]));
    expect(await sender.next()).toMatchObject({ cmd: 'pubrec', messageId: 99 });
    expect(await sender.next()).toMatchObject({ cmd: 'pubcomp', messageId: 99 });
    const heard = (await again.take(22)) as { topic: string; payload: Buffer; messageId: number; dup: boolean }[];
    expect(heard.map(({ topic, payload }) => `${topic} ${String(payload)}`)).toEqual([
      ...Array.from({ length: 20 }, (_, i) => `r/x ${i + 1}`),
      'r/two once',
      'r/will gone',
    ]);
    expect(heard.map(({ messageId }) => messageId)).toEqual(Array.from({ length: 22 }, (_, i) => i + 1));
    expect(heard.some((packet) => packet.dup)).toBe(false);
    again.vanish();
    await again.closed;

    // Sent, and yet to be acknowledged: again, with the same ids and DUP, also after another restart.
    await server.restart();
    const third = await connectRaw(server, key, options);
    const repeated = (await third.take(22)) as { messageId: number; dup: boolean }[];
    expect(repeated.map(({ messageId }) => messageId)).toEqual(heard.map(({ messageId }) => messageId));
    expect(repeated.every((packet) => packet.dup)).toBe(true);
    for (const { messageId } of repeated) third.send({ cmd: 'puback', messageId });
    await third.untilPong();
    await third.disconnect();

    const fresh = await connectRaw(server, key);
    await subscribe(fresh, 'r/x');
    expect(await fresh.next()).toMatchObject({ retain: true, payload: Buffer.from('20') });
    fresh.vanish();
    const empty = await connectRaw(server, key, options);
    expect(empty.sessionPresent).toBe(true);
    expect(await empty.untilPong()).toEqual([]);
    empty.vanish();
  });
});

describe('many messages', () => {
  test.each([0, 1, 2] as const)('with QoS %i arrive once each and in order, at a program that takes its time', async (qos) => {
    const url = `mqtt://127.0.0.1:${server.mqttPort}`;
    const login = { username: key.id, password: key.key, reconnectPeriod: 0 };
    const [reader, writer] = await Promise.all([mqtt.connectAsync(url, login), mqtt.connectAsync(url, login)]);
    const count = 900;
    const heard: number[] = [];
    const all = new Promise<void>((resolve) => {
      reader.on('message', (_, payload) => {
        heard.push(Number(payload));
        if (heard.length === count) resolve();
      });
    });
    await reader.subscribeAsync([`many/${qos}`, 'many/#', `+/${qos}`], { qos });
    await Promise.all(Array.from({ length: count }, (_, n) => writer.publishAsync(`many/${qos}`, String(n), { qos })));
    await all;
    expect(heard).toEqual(Array.from({ length: count }, (_, n) => n));
    await Promise.all([reader.endAsync(true), writer.endAsync(true)]);
  });

  test('retained ones all reach a program that subscribes to them, more than fit on their way at once', async () => {
    const url = `mqtt://127.0.0.1:${server.mqttPort}`;
    const login = { username: key.id, password: key.key, reconnectPeriod: 0 };
    const [reader, writer] = await Promise.all([mqtt.connectAsync(url, login), mqtt.connectAsync(url, login)]);
    const payload = 'x'.repeat(2_000);
    const topics = Array.from({ length: 1_500 }, (_, n) => `kept/${n}`);
    await Promise.all(topics.map((topic, n) => writer.publishAsync(topic, payload, { qos: n % 2 === 0 ? 0 : 1, retain: true })));
    const heard = new Set<string>();
    const all = new Promise<void>((resolve) => {
      reader.on('message', (topic) => {
        heard.add(topic);
        if (heard.size === topics.length) resolve();
      });
    });
    await reader.subscribeAsync('kept/#', { qos: 1 });
    await all;
    expect([...heard].toSorted()).toEqual(topics.toSorted());
    await Promise.all([reader.endAsync(true), writer.endAsync(true)]);
  });
});
