import { generate, parser, type IConnectPacket, type IPublishPacket, type Packet, type QoS } from 'mqtt-packet';
import { WebSocket } from 'ws';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { LiveServer } from './live-server.ts';
import { connectPacket, connectRaw, createKey, type ProgramKey, type RawClient } from './raw-client.ts';

/** MQTT 3.1.1, over several packets and connections: sessions, wills, retained messages, the three qualities of service, order. */

let server: LiveServer;
let key: ProgramKey;
let nth = 0;
/** A topic of the test's own. */
let topic = '';

beforeAll(async () => {
  server = await LiveServer.start();
  key = await createKey(server, { allow: [{ filter: '#' }, { filter: '$SYS/#', subscribe: true }] });
});

afterAll(() => server.close());

beforeEach(() => {
  nth += 1;
  topic = `case-${nth}/t`;
});

const open = (options: Partial<IConnectPacket> = {}): ReturnType<typeof connectRaw> => connectRaw(server, key, options);

async function subscribe(client: RawClient, filter: string, qos: QoS = 2): Promise<Packet> {
  client.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: filter, qos }] });
  return client.next();
}

function message(payload: string, qos: QoS = 0, more: Partial<IPublishPacket> = {}): IPublishPacket {
  return { cmd: 'publish', topic, payload, qos, retain: false, dup: false, ...(qos > 0 && { messageId: 1 }), ...more };
}

/** Publishes and waits until the server answers for it. */
async function publish(payload: string, qos: QoS = 1, more: Partial<IPublishPacket> = {}): Promise<void> {
  const client = await open();
  client.send(message(payload, qos, more));
  if (qos === 0) await client.untilPong();
  else await client.next();
  client.vanish();
}

function heard(packets: readonly Packet[]): string[] {
  return packets.flatMap((packet) => (packet.cmd === 'publish' ? [String(packet.payload)] : []));
}

describe('a session', () => {
  const kept = { clean: false };

  test('with clean session 0 outlives its connection, with what came for it meanwhile [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.3-2] [MQTT-4.1.0-1] [MQTT-4.1.0-2]', async () => {
    const options = { ...kept, clientId: `kept-${nth}` };
    const first = await open(options);
    await subscribe(first, topic, 1);
    first.vanish();
    await first.closed;
    for (const [payload, qos] of [
      ['0', 0],
      ['1', 1],
      ['2', 2],
    ] as const)
      await publish(payload, qos);
    const second = await open(options);
    expect(second.sessionPresent).toBe(true);
    const queued = (await second.take(2)) as IPublishPacket[];
    expect(queued.map(({ payload, qos, dup }) => [String(payload), qos, dup])).toEqual([
      ['1', 1, false],
      ['2', 1, false],
    ]);
    second.vanish();
  });

  test('is told with session present, also one without subscriptions, and never with clean session 1 [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3]', async () => {
    const clientId = `present-${nth}`;
    const seen: boolean[] = [];
    for (const clean of [false, false, true, false, true, true]) {
      const client = await open({ clientId, clean });
      seen.push(client.sessionPresent);
      await client.disconnect();
    }
    expect(seen).toEqual([false, true, false, false, false, false]);
  });

  test('with clean session 1 begins with nothing and leaves nothing, but for retained messages [MQTT-3.1.2-6] [MQTT-3.1.2-7] [MQTT-3.1.4-3]', async () => {
    const clientId = `clean-${nth}`;
    const before = await open({ ...kept, clientId });
    await subscribe(before, topic);
    before.send(message('retained', 1, { retain: true }));
    await before.take(2);
    await before.disconnect();
    const clean = await open({ clientId });
    expect(await clean.untilPong()).toEqual([]);
    await clean.disconnect();
    await publish('lost', 1, { topic: `${topic}/x` });
    const after = await open({ ...kept, clientId });
    expect(after.sessionPresent).toBe(false);
    expect(await after.untilPong()).toEqual([]);
    await subscribe(after, topic);
    expect(await after.next()).toMatchObject({ retain: true, payload: Buffer.from('retained') });
    after.vanish();
  });

  test('is taken over by a newer connection with its client id [MQTT-3.1.4-2]', async () => {
    const clientId = `taken-${nth}`;
    const old = await open({ clientId });
    const next = await open({ clientId });
    await old.closed;
    expect(await next.untilPong()).toEqual([]);
    next.vanish();
  });

  test('goes on with what was not acknowledged: same message id, DUP, in order [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-2.3.1-3] [MQTT-4.6.0-1] [MQTT-4.3.2-1]', async () => {
    const options = { ...kept, clientId: `again-${nth}` };
    const first = await open(options);
    await subscribe(first, topic);
    for (const payload of ['a', 'b', 'c']) await publish(payload, payload === 'b' ? 2 : 1);
    const sent = (await first.take(3)) as IPublishPacket[];
    first.vanish();
    await first.closed;
    const second = await open(options);
    const again = (await second.take(3)) as IPublishPacket[];
    expect(again.map(({ messageId }) => messageId)).toEqual(sent.map(({ messageId }) => messageId));
    expect(heard(again)).toEqual(['a', 'b', 'c']);
    expect([sent, again].map((packets) => packets.map(({ dup }) => dup))).toEqual([
      [false, false, false],
      [true, true, true],
    ]);
    for (const { messageId, qos } of again) second.send(qos === 1 ? { cmd: 'puback', messageId } : { cmd: 'pubrec', messageId });
    expect(await second.next()).toMatchObject({ cmd: 'pubrel', messageId: sent[1]?.messageId });
    second.vanish();
    await second.closed;
    const third = await open(options);
    expect(await third.next()).toMatchObject({ cmd: 'pubrel', messageId: sent[1]?.messageId });
    third.send({ cmd: 'pubcomp', messageId: sent[1]?.messageId });
    expect(await third.untilPong()).toEqual([]);
    await third.disconnect();
    expect(await (await open(options)).untilPong()).toEqual([]);
  });
});

describe('a will', () => {
  const willOf = (payload: string, qos: QoS = 1, retain = false): Partial<IConnectPacket> => ({
    will: { topic, payload: Buffer.from(payload), qos, retain },
  });

  test.each([
    ['vanishes', (client: RawClient) => client.vanish()],
    ['breaks the protocol', (client: RawClient) => client.send(Buffer.from([0xf0, 0]))],
    ['is taken over', (client: RawClient & { id: string }) => void open({ clientId: client.id })],
  ])('is published when the client %s, with its QoS [MQTT-3.1.2-8] [MQTT-3.1.2-9] [MQTT-3.1.2-16]', async (_, leave) => {
    const witness = await open();
    await subscribe(witness, topic);
    for (const qos of [0, 1, 2] as const) {
      const clientId = `will-${nth}-${qos}`;
      leave(Object.assign(await open({ ...willOf(`q${qos}`, qos), clientId }), { id: clientId }));
      expect(await witness.next()).toMatchObject({ topic, payload: Buffer.from(`q${qos}`), qos, retain: false });
    }
    await publish('', 1, { retain: true });
    witness.vanish();
  });

  test('is published when the keepalive runs out [MQTT-3.1.2-24] [MQTT-3.1.2-8]', async () => {
    const witness = await open();
    await subscribe(witness, topic);
    await open({ ...willOf('silent'), keepalive: 1 });
    expect(await witness.next()).toMatchObject({ payload: Buffer.from('silent') });
    witness.vanish();
  });

  test('is retained where it says so [MQTT-3.1.2-17]', async () => {
    const witness = await open();
    await subscribe(witness, topic);
    (await open(willOf('last', 1, true))).vanish();
    expect(await witness.next()).toMatchObject({ retain: false });
    const late = await open();
    await subscribe(late, topic);
    expect(await late.next()).toMatchObject({ retain: true, payload: Buffer.from('last') });
    late.vanish();
    witness.vanish();
  });

  test('is gone with DISCONNECT, and told once at most [MQTT-3.1.2-10] [MQTT-3.1.2-12] [MQTT-3.14.4-3]', async () => {
    const witness = await open();
    await subscribe(witness, topic);
    const clientId = `will-${nth}`;
    await (await open({ ...willOf('never'), clientId })).disconnect();
    const lost = await open({ ...willOf('once'), clientId });
    lost.vanish();
    expect(await witness.next()).toMatchObject({ payload: Buffer.from('once') });
    (await open({ clientId })).vanish();
    await publish('end');
    expect(heard(await witness.take(1))).toEqual(['end']);
    witness.vanish();
  });
});

describe('a retained message', () => {
  test('goes to new subscriptions and to repeated ones, marked as retained, to others like every message [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8] [MQTT-3.3.1-9] [MQTT-3.8.4-3]', async () => {
    const early = await open();
    await subscribe(early, topic, 1);
    await publish('v', 2, { retain: true });
    expect(await early.next()).toMatchObject({ retain: false, qos: 1 });
    for (let n = 0; n < 2; n += 1) {
      await subscribe(early, topic, 0);
      expect(await early.next()).toMatchObject({ retain: true, qos: 0, payload: Buffer.from('v') });
    }
    await publish('live', 1);
    expect(heard(await early.untilPong())).toEqual(['live']);
    early.vanish();
  });

  test('is replaced by the next one of any QoS, taken away by an empty one, and not touched by others [MQTT-3.3.1-7] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.3.1-12]', async () => {
    const retained = async (): Promise<string[]> => {
      const client = await open();
      await subscribe(client, topic);
      const packets = await client.untilPong();
      client.vanish();
      return heard(packets);
    };
    await publish('1', 1, { retain: true });
    await publish('0', 0, { retain: true });
    await publish('other', 1);
    expect(await retained()).toEqual(['0']);
    const live = await open();
    await subscribe(live, topic);
    await live.next();
    await publish('', 1, { retain: true });
    expect(await live.next()).toMatchObject({ payload: Buffer.alloc(0), retain: false });
    live.vanish();
    expect(await retained()).toEqual([]);
  });

  test('goes out with the lower of its QoS and the subscription’s, through every kind of filter [MQTT-3.8.4-6] [MQTT-3.8.3-2]', async () => {
    await publish('r', 1, { retain: true, topic: `${topic}/a/b` });
    for (const filter of [`${topic}/a/b`, `${topic}/+/b`, `${topic}/#`, `${topic}/a/b/#`]) {
      for (const qos of [0, 1, 2] as const) {
        const client = await open();
        expect(await subscribe(client, filter, qos)).toMatchObject({ granted: [qos] });
        expect(await client.next()).toMatchObject({ qos: Math.min(1, qos), retain: true });
        client.vanish();
      }
    }
  });
});

describe('a message', () => {
  test('goes to each matching subscriber with the lower QoS, wildcards or not [MQTT-4.5.0-1] [MQTT-3.3.2-3] [MQTT-3.8.4-6]', async () => {
    for (const qos of [0, 1, 2] as const) {
      for (const filter of [topic, `case-${nth}/+`, `${topic}/#`]) {
        const client = await open();
        await subscribe(client, filter, qos);
        for (const sent of [0, 1, 2] as const) {
          await publish(`${sent}`, sent);
          expect(await client.next()).toMatchObject({ topic, qos: Math.min(qos, sent) });
        }
        client.vanish();
      }
    }
  });

  test('goes once to overlapping subscriptions, with the highest QoS of theirs [MQTT-3.3.5-1]', async () => {
    const client = await open();
    for (const [filter, qos] of [
      [topic, 0],
      [`case-${nth}/+`, 2],
      [`${topic}/#`, 1],
    ] as const)
      await subscribe(client, filter, qos);
    await publish('once', 2);
    expect(await client.take(1)).toMatchObject([{ qos: 2 }]);
    expect(await client.untilPong()).toEqual([]);
    client.vanish();
  });

  test('with QoS 2 that comes again before its PUBREL is the same message [MQTT-4.3.3-2] [MQTT-4.3.3-1]', async () => {
    const witness = await open();
    await subscribe(witness, topic);
    const client = await open({ clean: false, clientId: `twice-${nth}` });
    client.send(message('one', 2), message('one', 2, { dup: true }));
    expect((await client.take(2)).map(({ cmd }) => cmd)).toEqual(['pubrec', 'pubrec']);
    client.vanish();
    await client.closed;
    const again = await open({ clean: false, clientId: `twice-${nth}` });
    again.send(message('one', 2, { dup: true }));
    await again.next();
    again.send({ cmd: 'pubrel', messageId: 1 });
    expect(await again.next()).toMatchObject({ cmd: 'pubcomp', messageId: 1 });
    again.send({ cmd: 'pubrel', messageId: 1 }, message('two', 2));
    expect((await again.take(2)).map(({ cmd }) => cmd).toSorted()).toEqual(['pubcomp', 'pubrec']);
    expect(heard(await witness.take(2))).toEqual(['one', 'two']);
    witness.vanish();
    again.vanish();
  });

  test('with QoS 1 that comes again is passed on again, with DUP of its own [MQTT-4.3.2-2] [MQTT-3.3.1-3]', async () => {
    const witness = await open();
    await subscribe(witness, topic);
    await publish('a', 1, { dup: true });
    expect(await witness.next()).toMatchObject({ dup: false, qos: 1 });
    witness.vanish();
  });

  test('keeps its place, and so do its acknowledgements [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-4] [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT-7.1.1-1]', async () => {
    const witness = await open();
    await subscribe(witness, topic);
    const client = await open();
    const ids = Array.from({ length: 50 }, (_, i) => i + 1);
    // Some are to be kept, so that they wait for the disk, some are not.
    const qosOf = (id: number): QoS => (id % 3 === 0 ? 2 : 1);
    client.send(...ids.map((id) => message(String(id), qosOf(id), { messageId: id, retain: id % 5 === 0 })));
    const answers = await client.take(50);
    for (const cmd of ['puback', 'pubrec']) {
      const order = answers.filter((packet) => packet.cmd === cmd).map(({ messageId }) => messageId);
      expect(order).toEqual(ids.filter((id) => (qosOf(id) === 2) === (cmd === 'pubrec')));
    }
    const sent = (await witness.take(50)) as IPublishPacket[];
    expect(heard(sent)).toEqual(ids.map(String));
    const twos = sent.filter(({ qos }) => qos === 2).map(({ messageId }) => messageId);
    witness.send(...twos.map((messageId) => ({ cmd: 'pubrec', messageId }) as const));
    expect((await witness.take(twos.length)).map(({ messageId }) => messageId)).toEqual(twos);
    witness.vanish();
    client.vanish();
  });

  test('that was on its way when its subscription ended is delivered to the end [MQTT-3.10.4-3]', async () => {
    const client = await open();
    await subscribe(client, topic);
    await publish('going', 2);
    const { messageId } = await client.next();
    client.send({ cmd: 'unsubscribe', messageId: 7, unsubscriptions: [topic] }, { cmd: 'pubrec', messageId });
    expect((await client.take(2)).map(({ cmd }) => cmd).toSorted()).toEqual(['pubrel', 'unsuback']);
    client.vanish();
  });

  test('to a topic that begins with $ is hidden from filters that begin with a wildcard [MQTT-4.7.2-1]', async () => {
    const [hidden, seeing] = [await open(), await open()];
    await subscribe(hidden, '#');
    await subscribe(hidden, '+/downlink/new/clients');
    await subscribe(seeing, '$SYS/#');
    (await open()).vanish();
    await seeing.next();
    const topics = (await hidden.untilPong()).flatMap((packet) => (packet.cmd === 'publish' ? [packet.topic] : []));
    expect(topics.filter((one) => one.startsWith('$'))).toEqual([]);
    hidden.vanish();
    seeing.vanish();
  });
});

describe('over WebSocket', () => {
  test.each([1, 3, 1_000])('packets do not keep to frames, here of %i octets [MQTT-6.0.0-2] [MQTT-6.0.0-3]', async (size) => {
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/mqtt`, 'mqtt');
    const incoming = parser();
    const cmds: string[] = [];
    const all = new Promise<void>((resolve) => {
      incoming.on('packet', ({ cmd }: Packet) => {
        cmds.push(cmd);
        if (cmds.length === 4) resolve();
      });
    });
    socket.on('message', (data: Buffer) => incoming.parse(data));
    await new Promise((resolve) => socket.once('open', resolve));
    const subscription: Packet = { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 0 }] };
    const packets = [connectPacket(key), subscription, message('x'), { cmd: 'pingreq' } as const];
    const octets = Buffer.concat(packets.map((packet) => generate(packet)));
    for (let at = 0; at < octets.length; at += size) socket.send(octets.subarray(at, at + size));
    await all;
    expect(cmds.toSorted()).toEqual(['connack', 'pingresp', 'publish', 'suback']);
    socket.terminate();
  });
});
