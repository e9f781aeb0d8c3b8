import { once } from 'node:events';
import { connect } from 'node:net';
import type { Packet } from 'mqtt-packet';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BURST_SECONDS } from '../broker/limits/token-bucket.ts';
import { ServerProcess } from './attacks/server-process.ts';
import { logLines } from './healthy-device.ts';
import { LiveServer } from './live-server.ts';
import { connectPacket, connectRaw, createKey, RawClient, type ProgramKey } from './raw-client.ts';

/** What is kept for programs on MQTT, and connections in all, at a server as it is run: what is refused or dropped, counted, and in the log. */
const program = new ServerProcess({
  DOWNLINK_SESSIONS_MAX: '2',
  DOWNLINK_QUEUED_MESSAGES_PER_CLIENT_MAX: '3',
  DOWNLINK_QUEUED_BYTES_MAX: '1048576',
  DOWNLINK_RETAINED_MESSAGES_MAX: '2',
  DOWNLINK_RETAINED_BYTES_MAX: '1000',
  DOWNLINK_CONNECTIONS_MAX: '30',
  DOWNLINK_CONNECTS_PER_SECOND_MAX: '20',
  DOWNLINK_PACKET_BYTES_MAX: '1048576',
});
const AWAY = { clientId: 'away', clean: false } as const;
let server: LiveServer;
let key: ProgramKey;
let writer: RawClient;

beforeAll(async () => {
  server = await LiveServer.start({ logLevel: 'info' }, undefined, program.start);
  key = await createKey(server);
  writer = await connectRaw(server, key);
});

afterAll(() => server.close());

async function reached(bound: string): Promise<number> {
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  return Number(new RegExp(`downlink_bound_reached_total\\{bound="${bound}"\\} (\\d+)`).exec(metrics)?.[1]);
}

async function logged(bound: string): Promise<Record<string, unknown>> {
  for (;;) {
    const line = logLines(program.printed).find((text) => text.includes(`"bound":"${bound}"`) && text.endsWith('}'));
    if (line !== undefined) return JSON.parse(line) as Record<string, unknown>;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

let lastMessageId = 0;

/** With QoS 1; resolves once it is acknowledged. */
async function publish(topic: string, payload: string | Buffer, retain = false): Promise<void> {
  lastMessageId += 1;
  writer.send({ cmd: 'publish', topic, payload, qos: 1, messageId: lastMessageId, dup: false, retain });
  expect(await writer.next()).toMatchObject({ cmd: 'puback', messageId: lastMessageId });
}

async function subscribe(client: RawClient, topic: string, qos: 0 | 1): Promise<void> {
  client.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos }] });
  expect(await client.next()).toMatchObject({ cmd: 'suback', granted: [qos] });
}

/** What waited for the program that was away; it goes away again and has had it all. */
async function takeWaiting(): Promise<number[]> {
  const reader = await connectRaw(server, key, AWAY);
  const packets = await reader.untilPong();
  const sizes = packets.map((packet) => (packet.cmd === 'publish' ? packet.payload.length : 0));
  for (const { messageId } of packets) reader.send({ cmd: 'puback', messageId });
  await reader.untilPong();
  await reader.disconnect();
  return sizes;
}

test('queued_messages: the oldest that waits for a program that is away makes room for the newest', async () => {
  const reader = await connectRaw(server, key, AWAY);
  await subscribe(reader, 'work', 1);
  await reader.disconnect();
  for (let size = 1; size <= 5; size += 1) await publish('work', 'x'.repeat(size));
  expect(await reached('queued_messages')).toBe(2);
  expect(await logged('queued_messages')).toMatchObject({ client: `${key.id}/away` });
  expect(await takeWaiting()).toEqual([3, 4, 5]);
});

test('queued_bytes: what waits is no larger in all, and again the oldest makes room', async () => {
  for (const size of [500_000, 400_000, 600_000]) await publish('work', Buffer.alloc(size));
  expect(await reached('queued_bytes')).toBe(1);
  expect(await logged('queued_bytes')).toMatchObject({ client: `${key.id}/away` });
  expect(await takeWaiting()).toEqual([400_000, 600_000]);
});

test('sessions: one more that is to last is refused with CONNACK 3; one that is not, and one that is there, are let in', async () => {
  const second = await connectRaw(server, key, { clientId: 'second', clean: false });
  const third = new RawClient(server.mqttPort);
  third.send(connectPacket(key, { clientId: 'third', clean: false }));
  expect(await third.next()).toMatchObject({ cmd: 'connack', returnCode: 3 });
  expect(await reached('sessions')).toBe(1);
  expect(await logged('sessions')).toMatchObject({ client: `${key.id}/third` });
  const clean = await connectRaw(server, key, { clientId: 'third' });
  const back = await connectRaw(server, key, AWAY);
  expect(back.sessionPresent).toBe(true);
  for (const client of [second, third, clean, back]) client.vanish();
});

test('retained_messages, retained_bytes: what is too much is delivered and not retained', async () => {
  const reader = await connectRaw(server, key);
  await subscribe(reader, 'state/#', 0);
  const sent = [
    ['state/a', 10],
    ['state/b', 10],
    ['state/c', 10],
    ['state/b', 2_000],
  ] as const;
  for (const [topic, size] of sent) await publish(topic, Buffer.alloc(size), true);
  const got: Packet[] = await reader.take(sent.length);
  expect(got).toMatchObject(sent.map(([topic, size]) => ({ topic, payload: Buffer.alloc(size), retain: false })));
  expect([await reached('retained_messages'), await reached('retained_bytes')]).toEqual([1, 1]);
  await logged('retained_messages');
  await logged('retained_bytes');
  const late = await connectRaw(server, key);
  await subscribe(late, 'state/#', 0);
  // What was retained under b before is not its last message any more.
  expect(await late.untilPong()).toMatchObject([{ topic: 'state/a', retain: true }]);
  reader.vanish();
  late.vanish();
});

test('connections, connects_per_second: one more is closed at once, and those that are open go on', async () => {
  const open = (localAddress: string) => {
    const socket = connect({ port: server.mqttPort, host: '127.0.0.1', localAddress });
    socket.on('error', () => {});
    const closed = once(socket, 'close');
    socket.resume();
    return { socket, closed };
  };
  const crowd = Array.from({ length: 40 }, () => open('127.0.0.2'));
  const closed = await Promise.race(crowd.map(async ({ closed: one }) => one.then(() => 'closed')));
  expect(closed).toBe('closed');
  expect(await logged('connections')).toMatchObject({ address: '127.0.0.2' });
  expect(await writer.untilPong()).toEqual([]);
  for (const { socket } of crowd) socket.destroy();
  await Promise.all(crowd.map(({ closed: one }) => one));
  let count = 0;
  while (!program.printed.includes('"bound":"connects_per_second"')) {
    const { socket, closed: one } = open('127.0.0.3');
    await Promise.race([one, once(socket, 'connect')]);
    socket.destroy();
    await one;
    count += 1;
  }
  expect(count).toBeGreaterThanOrEqual(20 * BURST_SECONDS);
  expect(await logged('connects_per_second')).toMatchObject({ address: '127.0.0.3' });
  // Once the server has seen all of them go.
  expect(await writer.untilPong()).toEqual([]);
  expect(await reached('connects_per_second')).toBeGreaterThan(0);
  expect(await reached('connections')).toBeGreaterThan(0);
});
