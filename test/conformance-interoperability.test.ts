import type { IConnectPacket, IPublishPacket, Packet, QoS } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer } from './live-server.ts';
import { connectPacket, connectRaw, createKey, RawClient, type ProgramKey } from './raw-client.ts';

/**
 * What the interoperability suite of Eclipse Paho does with a broker, in its order, with its topics and its two client ids, which carry their sessions
 * from one test to the next as they do there.
 */
const TOPICS = ['TopicA', 'TopicA/B', 'Topic/C', 'TopicA/C', '/TopicA'] as const;
const [TOPIC_A, A_B, C, A_C, SLASH_A] = TOPICS;
const A = 'myclientid';
const B = 'myclientid2';

let server: LiveServer;
let key: ProgramKey;

beforeAll(async () => {
  server = await LiveServer.start();
  key = await createKey(server, { allow: [{ filter: '#' }], deny: [{ filter: 'nosubscribe' }] });
});

afterAll(() => server.close());

const open = (clientId: string, clean = true, more: Partial<IConnectPacket> = {}): ReturnType<typeof connectRaw> =>
  connectRaw(server, key, { clientId, clean, ...more });

async function subscribe(client: RawClient, ...filters: (readonly [string, QoS])[]): Promise<Packet> {
  client.send({ cmd: 'subscribe', messageId: 1, subscriptions: filters.map(([topic, qos]) => ({ topic, qos })) });
  return client.next();
}

function message(topic: string, payload: string, qos: QoS, retain = false): IPublishPacket {
  return { cmd: 'publish', topic, payload, qos, retain, dup: false, ...(qos > 0 && { messageId: qos }) };
}

/** Acknowledges all that comes, to the end of each exchange, until `count` messages are there and the client’s own are taken. */
async function converse(client: RawClient, count: number, ends: readonly ('puback' | 'pubcomp')[]): Promise<IPublishPacket[]> {
  const messages: IPublishPacket[] = [];
  const open = [...ends];
  let unreleased = 0;
  while (messages.length < count || open.length > 0 || unreleased > 0) {
    const packet = await client.next();
    const { cmd, messageId } = packet;
    if (cmd === 'publish') {
      messages.push(packet);
      if (packet.qos === 1) client.send({ cmd: 'puback', messageId });
      if (packet.qos === 2) client.send({ cmd: 'pubrec', messageId });
      if (packet.qos === 2) unreleased += 1;
    } else if (cmd === 'pubrec') client.send({ cmd: 'pubrel', messageId });
    else if (cmd === 'pubrel') {
      client.send({ cmd: 'pubcomp', messageId });
      unreleased -= 1;
    } else if (cmd === 'puback' || cmd === 'pubcomp') open.splice(open.indexOf(cmd), 1);
    else throw new Error(cmd);
  }
  expect(await client.untilPong()).toEqual([]);
  return messages;
}

const told = (messages: readonly IPublishPacket[]): string[] =>
  messages.map(({ topic, payload, qos, retain }) => `${topic} ${String(payload)} ${qos}${retain ? ' retained' : ''}`).toSorted();

/** Publishes to three topics with QoS 0, 1 and 2; resolves when the server has taken all. */
async function publishThree(client: RawClient, retain = false, payload = (qos: number) => `qos ${qos}`): Promise<void> {
  client.send(...[A_B, C, A_C].map((topic, qos) => message(topic, payload(qos), qos as QoS, retain)));
  await converse(client, 0, ['puback', 'pubcomp']);
}

/** A CONNECT with neither a client id nor the flag of a clean session, which no library makes. */
function withoutId({ id, key: secret }: ProgramKey): Buffer {
  const text = (value: string): Buffer => Buffer.concat([Buffer.from([0, value.length]), Buffer.from(value)]);
  const body = Buffer.concat([text('MQTT'), Buffer.from([4, 0xc0, 0, 60]), text(''), text(id), text(secret)]);
  return Buffer.concat([Buffer.from([0x10, body.length]), body]);
}

describe('the clients of another suite', () => {
  test('hear themselves at each quality of service, and are closed for a second CONNECT and another protocol', async () => {
    await (await open(A)).disconnect();
    const client = await open(A);
    expect(client.sessionPresent).toBe(false);
    await subscribe(client, [TOPIC_A, 2]);
    client.send(...([0, 1, 2] as const).map((qos) => message(TOPIC_A, `qos ${qos}`, qos)));
    const heard = await converse(client, 3, ['puback', 'pubcomp']);
    expect(heard.map(({ payload, qos }) => [String(payload), qos])).toEqual([
      ['qos 0', 0],
      ['qos 1', 1],
      ['qos 2', 2],
    ]);
    client.send(connectPacket(key, { clientId: A }));
    expect(await client.nextOrEnd()).toBeUndefined();
    const stranger = new RawClient(server.mqttPort);
    stranger.send(Buffer.from([0x10, 16, 0, 2, 0x68, 0x6a, 4, 2, 0, 60, 0, 6, ...Buffer.from('client')]));
    expect(await stranger.nextOrEnd()).toBeUndefined();
  });

  test('find what was retained at each quality of service, and nothing after it was taken away at each', async () => {
    const client = await open(A);
    await publishThree(client, true);
    await subscribe(client, ['+/+', 2]);
    expect(told(await converse(client, 3, []))).toEqual([
      'Topic/C qos 1 1 retained',
      'TopicA/B qos 0 0 retained',
      'TopicA/C qos 2 2 retained',
    ]);
    await client.disconnect();
    const again = await open(A);
    await publishThree(again, true, () => '');
    await subscribe(again, ['+/+', 2]);
    expect(await again.untilPong()).toEqual([]);
    await again.disconnect();
  });

  test('find what came while they were away, each message with its QoS', async () => {
    const away = await open(A, false);
    await subscribe(away, ['+/+', 2]);
    await away.disconnect();
    const other = await open(B);
    expect(other.sessionPresent).toBe(false);
    await publishThree(other);
    await other.disconnect();
    const back = await open(A, false);
    expect(back.sessionPresent).toBe(true);
    expect(told(await converse(back, 2, []))).toEqual(['Topic/C qos 1 1', 'TopicA/C qos 2 2']);
    await back.disconnect();
  });

  test('hear the will of one that is cut off', async () => {
    const will = { topic: C, payload: Buffer.from('client not disconnected'), qos: 0, retain: false } as const;
    const lost = await open(A, true, { will, keepalive: 2 });
    expect(lost.sessionPresent).toBe(false);
    const witness = await open(B, false);
    await subscribe(witness, [C, 2]);
    lost.vanish();
    expect(told(await converse(witness, 1, []))).toEqual(['Topic/C client not disconnected 0']);
    await witness.disconnect();
  });

  test('hear the will of one whose keepalive ran out, and are not cut themselves with keepalive 0', async () => {
    const will = { topic: SLASH_A, payload: Buffer.from('keepalive expiry'), qos: 0, retain: false } as const;
    const silent = await open(A, true, { will, keepalive: 1 });
    const witness = await open(B, true, { keepalive: 0 });
    expect(witness.sessionPresent).toBe(false);
    await subscribe(witness, [SLASH_A, 2]);
    expect(told(await converse(witness, 1, []))).toEqual(['/TopicA keepalive expiry 0']);
    await silent.closed;
    await witness.disconnect();
  });

  test('hear a message once through filters of one SUBSCRIBE that overlap, with the highest QoS', async () => {
    const client = await open(A);
    expect(await subscribe(client, ['TopicA/#', 2], ['TopicA/+', 1])).toMatchObject({ granted: [2, 1] });
    client.send(message(A_C, 'overlapping topic filters', 2));
    expect(told(await converse(client, 1, ['pubcomp']))).toEqual(['TopicA/C overlapping topic filters 2']);
    await client.disconnect();
  });

  test('hear again, when they come back, what they were sent and did not acknowledge before they said goodbye', async () => {
    const client = await open(B, false);
    await subscribe(client, ['TopicA/#', 2]);
    client.send(message(A_B, '', 1), message(A_C, '', 2));
    // Its own messages are taken to the end, what comes is left.
    const first: IPublishPacket[] = [];
    for (let ended = 0; ended < 2 || first.length < 2;) {
      const packet = await client.next();
      if (packet.cmd === 'publish') first.push(packet);
      else if (packet.cmd === 'pubrec') client.send({ cmd: 'pubrel', messageId: packet.messageId });
      else ended += 1;
    }
    await client.disconnect();
    const back = await open(B, false);
    expect(back.sessionPresent).toBe(true);
    const again = await converse(back, 2, []);
    expect(again.map(({ topic, qos, dup, messageId }) => [topic, qos, dup, messageId])).toEqual(
      first.map(({ topic, qos, messageId }) => [topic, qos, true, messageId]),
    );
    await back.disconnect();
  });

  test('without an id are served with clean session 1 alone', async () => {
    const refused = new RawClient(server.mqttPort);
    refused.send(withoutId(key));
    expect(await refused.next()).toMatchObject({ cmd: 'connack', returnCode: 2 });
    await refused.closed;
    await (await open('')).disconnect();
  });

  test('are told 0x80 for a filter that is not theirs', async () => {
    const client = await open(A);
    expect(await subscribe(client, ['nosubscribe', 2])).toMatchObject({ cmd: 'suback', granted: [0x80] });
    await client.disconnect();
  });

  test('hear nothing of a topic that begins with $ through +/+', async () => {
    const client = await open(B, true, { keepalive: 0 });
    await subscribe(client, ['+/+', 2]);
    client.send(message(`$${A_B}`, '', 1));
    expect(await client.next()).toMatchObject({ cmd: 'puback' });
    expect(await client.untilPong()).toEqual([]);
    await client.disconnect();
  });

  test('clean up before they begin: find all that is retained through #, and take it away', async () => {
    const everything = await createKey(server);
    const cleaner = (): ReturnType<typeof connectRaw> => connectRaw(server, everything, { clientId: 'clean retained' });
    await publishThree(await open(A), true);
    const client = await cleaner();
    await subscribe(client, ['#', 0]);
    const found = await converse(client, 3, []);
    expect(told(found)).toEqual(['Topic/C qos 1 0 retained', 'TopicA/B qos 0 0 retained', 'TopicA/C qos 2 0 retained']);
    client.send(...found.map(({ topic }) => message(topic, '', 0, true)));
    expect(told(await converse(client, 3, []))).toEqual(['Topic/C  0', 'TopicA/B  0', 'TopicA/C  0']);
    await client.disconnect();
    const again = await cleaner();
    await subscribe(again, ['#', 0]);
    expect(await again.untilPong()).toEqual([]);
    await again.disconnect();
  });

  test('hear no more of the one of three topics that they gave up', async () => {
    const client = await open(B);
    for (const topic of [TOPIC_A, A_B, C]) await subscribe(client, [topic, 2]);
    client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: [TOPIC_A] });
    expect(await client.next()).toMatchObject({ cmd: 'unsuback', messageId: 2 });
    const other = await open(A);
    other.send(...[TOPIC_A, A_B, C].map((topic, at) => ({ ...message(topic, '', 1), messageId: at + 1 })));
    await other.take(3);
    expect(told(await converse(client, 2, []))).toEqual(['Topic/C  1', 'TopicA/B  1']);
    await client.disconnect();
    await other.disconnect();
  });
});
