import { generate } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer } from './live-server.ts';
import { connectPacket, connectRaw, createKey, RawClient, type ProgramKey } from './raw-client.ts';

/** MQTT 3.1.1, packet by packet: what the server takes, what it answers, and what it closes a connection for. `conformance.md` is made from these names. */

let server: LiveServer;
let key: ProgramKey;

beforeAll(async () => {
  server = await LiveServer.start();
  key = await createKey(server);
});

afterAll(() => server.close());

function text(value: string | Buffer): Buffer {
  const octets = Buffer.from(value);
  return Buffer.concat([Buffer.from([octets.length >>> 8, octets.length & 0xff]), octets]);
}

/** A packet shorter than 128 octets, whatever it says. */
function packet(first: number, ...parts: (Buffer | number[])[]): Buffer {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  return Buffer.concat([Buffer.from([first, body.length]), body]);
}

const publish = (topic: string | Buffer, ...rest: number[]): Buffer => packet(0x30, text(topic), rest);
const subscribe = (filter: string | Buffer, qos = 0): Buffer => packet(0x82, [0, 1], text(filter), [qos]);
const unsubscribe = (filter: string | Buffer): Buffer => packet(0xa2, [0, 1], text(filter));
const BAD_UTF8 = Buffer.from([0x61, 0xc3, 0x28]);
const SURROGATE = Buffer.from([0x61, 0xed, 0xa0, 0x80]);

/** Sends it on a connection that is open; resolves when the server has closed it without a word. */
async function closes(octets: Buffer): Promise<void> {
  const client = await connectRaw(server, key);
  client.send(octets);
  expect(await client.nextOrEnd()).toBeUndefined();
}

/** What a connection that begins with these octets is answered: CONNACK's code, or that it is closed without one. */
async function answerTo(octets: Buffer): Promise<number | 'closed'> {
  const client = new RawClient(server.mqttPort);
  client.send(octets);
  const answer = await client.nextOrEnd();
  if (answer === undefined) return 'closed';
  if (answer.cmd !== 'connack' || answer.returnCode === undefined) throw new Error(answer.cmd);
  expect(answer.sessionPresent).toBe(false);
  if (answer.returnCode > 0) await client.closed;
  client.vanish();
  return answer.returnCode;
}

type ConnectParts = { name?: string; level?: number; flags?: number; payload?: Buffer[] };

function connect({ name = 'MQTT', level = 4, flags = 0xc2, payload }: ConnectParts = {}): Buffer {
  const given = payload ?? [text('conformance'), text(key.id), text(key.key)];
  const body = Buffer.concat([text(name), Buffer.from([level, flags, 0, 60]), ...given]);
  return Buffer.concat([Buffer.from([0x10, (body.length % 128) | 0x80, Math.floor(body.length / 128)]), body]);
}

const withWill = (will: (string | Buffer)[]): Buffer[] => [text('conformance'), ...will.map(text), text(key.id), text(key.key)];

describe('text', () => {
  test.each([
    ['a PUBLISH', (bad: Buffer) => publish(bad)],
    ['a SUBSCRIBE', (bad: Buffer) => subscribe(bad)],
    ['an UNSUBSCRIBE', (bad: Buffer) => unsubscribe(bad)],
  ])(
    'that is no UTF-8 in %s closes the connection [MQTT-1.5.3-1] [MQTT-3.3.2-1] [MQTT-3.8.3-1] [MQTT-3.10.3-1]',
    async (_, of) => {
      await closes(of(BAD_UTF8));
      await closes(of(SURROGATE));
    },
  );

  test('with U+0000 closes the connection [MQTT-1.5.3-2] [MQTT-4.7.3-2]', async () => {
    await closes(publish('a\0b'));
    await closes(subscribe('a\0'));
    await closes(unsubscribe('\0'));
  });

  test('keeps its byte order mark, and is not normalised [MQTT-1.5.3-3] [MQTT-4.7.3-4] [MQTT-3.10.4-1]', async () => {
    const client = await connectRaw(server, key);
    const topics = ['\ufeffa', '\u00e5', 'a\u030a', 'A', 'a', '/a', 'a/'];
    client.send(...topics.map((topic) => subscribe(topic)));
    await client.take(topics.length);
    for (const topic of topics) {
      client.send(publish(topic));
      expect(await client.next()).toMatchObject({ cmd: 'publish', topic });
    }
    client.send(unsubscribe('A'));
    expect(await client.next()).toMatchObject({ cmd: 'unsuback' });
    client.send(publish('A'), publish('a'));
    expect(await client.untilPong()).toMatchObject([{ topic: 'a' }]);
    client.vanish();
  });

  test('of 65,535 octets is no topic too long [MQTT-4.7.3-3], but for a bound of the server', async () => {
    const client = await connectRaw(server, key);
    client.send(
      generate({ cmd: 'publish', topic: 'x'.repeat(4_000), payload: '', qos: 1, messageId: 1, dup: false, retain: false }),
    );
    expect(await client.next()).toMatchObject({ cmd: 'puback' });
    client.vanish();
  });
});

describe('a fixed header', () => {
  test.each([
    ['PUBREL', 0x60],
    ['SUBSCRIBE', 0x80],
    ['UNSUBSCRIBE', 0xa0],
    ['PUBACK', 0x41],
    ['PINGREQ', 0xc1],
    ['DISCONNECT', 0xe1],
  ])(
    'of a %s with other flags closes the connection [MQTT-2.2.2-2] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1]',
    async (_, first) => {
      const isEmpty = first === 0xc1 || first === 0xe1;
      await closes(
        isEmpty
          ? packet(first)
          : packet(first, [0, 1], text('a').subarray(0, first < 0x80 ? 0 : 3), [0].slice(0, first === 0x80 ? 1 : 0)),
      );
    },
  );

  test('of a type that no client sends closes the connection [MQTT-4.8.0-1]', async () => {
    for (const first of [0x00, 0x20, 0x90, 0xb0, 0xd0, 0xf0])
      await closes(packet(first, [0, 1, 0].slice(0, first === 0xd0 ? 0 : 3)));
  });
});

describe('a message id', () => {
  test('of 0 closes the connection [MQTT-2.3.1-1]', async () => {
    await closes(packet(0x32, text('a'), [0, 0]));
    await closes(packet(0x34, text('a'), [0, 0]));
    await closes(packet(0x82, [0, 0], text('a'), [0]));
    await closes(packet(0xa2, [0, 0], text('a')));
    for (const first of [0x40, 0x50, 0x62, 0x70]) await closes(packet(first, [0, 0]));
  });

  test('comes back with PUBACK, PUBREC, PUBCOMP, SUBACK and UNSUBACK [MQTT-2.3.1-6] [MQTT-2.3.1-7] [MQTT-3.8.4-2] [MQTT-3.10.4-4] [MQTT-3.3.4-1]', async () => {
    const client = await connectRaw(server, key);
    client.send(
      packet(0x32, text('ids'), [0x12, 0x34]),
      packet(0x34, text('ids'), [0xff, 0xff]),
      packet(0x62, [0xff, 0xff]),
      packet(0x82, [1, 2], text('ids'), [1]),
      packet(0xa2, [3, 4], text('ids')),
    );
    const answers = (await client.take(5)).map(({ cmd, messageId }) => `${cmd} ${messageId}`);
    expect(answers.toSorted()).toEqual(['puback 4660', 'pubcomp 65535', 'pubrec 65535', 'suback 258', 'unsuback 772']);
    client.vanish();
  });

  test('of what the server sends is never 0, and none with QoS 0 [MQTT-2.3.1-4] [MQTT-2.3.1-5] [MQTT-2.2.2-1] [MQTT-4.3.1-1]', async () => {
    const client = await connectRaw(server, key);
    client.send(subscribe('ids/#', 2));
    await client.next();
    client.send(publish('ids/0'), packet(0x32, text('ids/1'), [0, 1]), packet(0x34, text('ids/2'), [0, 2]));
    const heard = (await client.take(5)).filter((one) => one.cmd === 'publish');
    expect(heard.map(({ topic, messageId, qos, dup }) => [topic, messageId, qos, dup])).toEqual([
      ['ids/0', undefined, 0, false],
      ['ids/1', 1, 1, false],
      ['ids/2', 2, 2, false],
    ]);
    client.send(packet(0x50, [0, 2]));
    expect(await client.next()).toMatchObject({ cmd: 'pubrel', messageId: 2, qos: 1 });
    client.vanish();
  });
});

describe('CONNECT', () => {
  test('is the first packet, and none else [MQTT-3.1.0-1]', async () => {
    for (const octets of [publish('a'), subscribe('a'), packet(0xc0), packet(0xe0)])
      expect(await answerTo(octets)).toBe('closed');
  });

  test('comes once [MQTT-3.1.0-2]', async () => {
    await closes(connect());
  });

  test('is acknowledged with 0, before anything else is sent [MQTT-3.1.4-4] [MQTT-3.2.0-1]', async () => {
    expect(await answerTo(connect())).toBe(0);
  });

  test('of another protocol is closed without a word [MQTT-3.1.2-1]', async () => {
    expect(await answerTo(connect({ name: 'MQTX' }))).toBe('closed');
  });

  test('of another level is answered 1 [MQTT-3.1.2-2] [MQTT-3.2.2-4] [MQTT-3.2.2-5]', async () => {
    for (const level of [0, 3, 5, 6, 0x84, 255]) expect(await answerTo(connect({ level }))).toBe(1);
    expect(await answerTo(connect({ name: 'MQIsdp', level: 4 }))).toBe(1);
  });

  test('with its reserved flag is closed without a word [MQTT-3.1.2-3] [MQTT-3.1.4-1]', async () => {
    expect(await answerTo(connect({ flags: 0xc3 }))).toBe('closed');
  });

  test.each([
    ['will QoS without a will [MQTT-3.1.2-13] [MQTT-3.1.2-11]', 0xca],
    ['will retain without a will [MQTT-3.1.2-15]', 0xe2],
    ['a password without a username [MQTT-3.1.2-22]', 0x42],
    ['no username, and one behind [MQTT-3.1.2-18]', 0x02],
    ['no password, and one behind [MQTT-3.1.2-20]', 0x82],
  ])('with %s is closed without a word', async (_, flags) => {
    expect(await answerTo(connect({ flags }))).toBe('closed');
  });

  test('with will QoS 3 is closed without a word [MQTT-3.1.2-14]', async () => {
    expect(await answerTo(connect({ flags: 0xde, payload: withWill(['will', 'x']) }))).toBe('closed');
  });

  test('whose flags promise what is not there is closed without a word [MQTT-3.1.2-19] [MQTT-3.1.2-21] [MQTT-3.1.3-1] [MQTT-3.1.3-3]', async () => {
    expect(await answerTo(connect({ payload: [text('a')] }))).toBe('closed');
    expect(await answerTo(connect({ payload: [text('a'), text(key.id)] }))).toBe('closed');
    expect(await answerTo(connect({ flags: 0xc6, payload: withWill([]) }))).toBe('closed');
    expect(await answerTo(connect({ payload: [] }))).toBe('closed');
  });

  test('with text that is none is closed without a word [MQTT-3.1.3-4] [MQTT-3.1.3-10] [MQTT-3.1.3-11]', async () => {
    expect(await answerTo(connect({ payload: [text(BAD_UTF8), text(key.id), text(key.key)] }))).toBe('closed');
    expect(await answerTo(connect({ payload: [text('a'), text(BAD_UTF8), text(key.key)] }))).toBe('closed');
    for (const will of [BAD_UTF8, Buffer.from('a/#'), Buffer.from('+'), Buffer.from(''), Buffer.from('a\0')]) {
      expect(await answerTo(connect({ flags: 0xc6, payload: withWill([will, 'x']) }))).toBe('closed');
    }
  });

  test('takes every client id of 1 to 23 letters and figures [MQTT-3.1.3-5]', async () => {
    for (const id of ['0', 'aZ9', 'abcdefghijklmnopqrstuvw', 'ABCDEFGHIJKLMNOPQRSTUVW']) {
      expect(await answerTo(connect({ payload: [text(id), text(key.id), text(key.key)] }))).toBe(0);
    }
  });

  test('without a client id is given one, with clean session 1 [MQTT-3.1.3-6]', async () => {
    const [one, other] = [await connectRaw(server, key, { clientId: '' }), await connectRaw(server, key, { clientId: '' })];
    expect([await one.untilPong(), await other.untilPong()]).toEqual([[], []]);
    one.vanish();
    other.vanish();
  });

  test('without a client id and with clean session 0 is answered 2 [MQTT-3.1.3-7] [MQTT-3.1.3-8] [MQTT-3.1.3-9]', async () => {
    expect(await answerTo(connect({ flags: 0xc0, payload: [text(''), text(key.id), text(key.key)] }))).toBe(2);
  });

  test('that is refused has the rest unread [MQTT-3.1.4-5]', async () => {
    const witness = await connectRaw(server, key);
    witness.send(subscribe('after-refusal'));
    await witness.next();
    const octets = connect({ payload: [text('x'), text(key.id), text('wrong')] });
    expect(await answerTo(Buffer.concat([octets, publish('after-refusal')]))).toBe(4);
    expect(await witness.untilPong()).toEqual([]);
    witness.vanish();
  });
});

describe('PUBLISH', () => {
  test('with QoS 3 closes the connection [MQTT-3.3.1-4]', () => closes(packet(0x36, text('a'), [0, 1])));

  test('with DUP and QoS 0 closes the connection [MQTT-3.3.1-2]', () => closes(packet(0x38, text('a'))));

  test('to a wildcard closes the connection [MQTT-3.3.2-2] [MQTT-4.7.1-1]', async () => {
    for (const topic of ['#', 'a/#', '+', 'a/+/b', 'a+', 'a#']) await closes(publish(topic));
  });

  test('to no topic closes the connection [MQTT-4.7.3-1]', () => closes(publish('')));

  test('that is not allowed is acknowledged and goes nowhere [MQTT-3.3.5-2]', async () => {
    const client = await connectRaw(server, key);
    client.send(packet(0x32, text('devices/x/telemetry'), [0, 9]), packet(0x34, text('$SYS/x'), [0, 8]));
    expect(await client.take(2)).toMatchObject([{ cmd: 'puback' }, { cmd: 'pubrec' }]);
    client.vanish();
  });
});

describe('SUBSCRIBE', () => {
  test('without a filter closes the connection [MQTT-3.8.3-3]', () => closes(packet(0x82, [0, 1])));

  test('with reserved bits or QoS 3 closes the connection [MQTT-3-8.3-4]', async () => {
    for (const qos of [3, 4, 0x80]) await closes(subscribe('a', qos));
  });

  test('with a filter that is none closes the connection [MQTT-4.7.1-2] [MQTT-4.7.1-3]', async () => {
    for (const filter of ['a#', 'a/#/b', '#/a', '##', 'a+', '+b', 'a/+b', '++', '']) await closes(subscribe(filter));
  });

  test('is answered with a code for each filter, in their order [MQTT-3.8.4-1] [MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1] [MQTT-3.9.3-2]', async () => {
    const client = await connectRaw(server, await createKey(server, { allow: [{ filter: 'a/#' }] }));
    client.send(packet(0x82, [0, 5], text('a/1'), [2], text('b'), [1], text('a/2'), [0], text('a/+'), [1]));
    expect(await client.next()).toMatchObject({ cmd: 'suback', messageId: 5, granted: [2, 0x80, 0, 1] });
    client.vanish();
  });
});

describe('UNSUBSCRIBE', () => {
  test('without a filter closes the connection [MQTT-3.10.3-2]', () => closes(packet(0xa2, [0, 1])));

  test('is answered whatever it names, and takes all that it names [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.10.4-2]', async () => {
    const client = await connectRaw(server, key);
    client.send(
      packet(0x82, [0, 1], text('u/1'), [0], text('u/2'), [0], text('u/3'), [0]),
      packet(0xa2, [0, 2], text('u/1'), text('never'), text('u/3')),
    );
    expect(await client.take(2)).toMatchObject([{ cmd: 'suback' }, { cmd: 'unsuback', messageId: 2 }]);
    client.send(publish('u/1'), publish('u/2'), publish('u/3'));
    expect(await client.untilPong()).toMatchObject([{ topic: 'u/2' }]);
    client.vanish();
  });
});

describe('a connection', () => {
  test('with PINGREQ is answered PINGRESP [MQTT-3.12.4-1]', async () => {
    const client = await connectRaw(server, key);
    client.send(packet(0xc0));
    expect(await client.next()).toMatchObject({ cmd: 'pingresp' });
    client.vanish();
  });

  test('silent for one and a half times its keepalive is closed [MQTT-3.1.2-24] [MQTT-3.1.2-23]', async () => {
    const client = await connectRaw(server, key, { keepalive: 1 });
    expect(await client.nextOrEnd()).toBeUndefined();
  });

  test('after DISCONNECT is closed, and nothing more is read [MQTT-3.14.4-1] [MQTT-3.14.4-2]', async () => {
    const witness = await connectRaw(server, key);
    witness.send(subscribe('after-disconnect'));
    await witness.next();
    const client = await connectRaw(server, key);
    client.send(Buffer.concat([packet(0xe0), publish('after-disconnect')]));
    await client.closed;
    expect(await witness.untilPong()).toEqual([]);
    witness.vanish();
  });

  test('of MQTT 3.1 is served as well', async () => {
    const client = await connectRaw(server, key, connectPacket(key, { protocolId: 'MQIsdp', protocolVersion: 3 }));
    expect(await client.untilPong()).toEqual([]);
    client.vanish();
  });
});
