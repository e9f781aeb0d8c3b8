import type { Packet } from 'mqtt-packet';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { LevelState } from '../broker/store/level/level-state.ts';
import type { Change } from '../broker/store/state.ts';
import { LiveServer } from './live-server.ts';
import { connectRaw, createKey, type ProgramKey, type RawClient } from './raw-client.ts';

/** QoS 2 with a disk that is slow or refuses: a program that reconnects meanwhile is told nothing that a crash would undo. */
let server: LiveServer;
let key: ProgramKey;
let publisher: RawClient;
let subscriber: RawClient;
// oxlint-disable-next-line typescript/unbound-method -- it is called with its own.
const commit = LevelState.prototype.commit;

beforeEach(async () => {
  server = await LiveServer.start();
  key = await createKey(server);
  publisher = await connected('publisher');
  subscriber = await connected('subscriber');
  subscriber.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'a', qos: 2 }] });
  await subscriber.next();
});

afterEach(async () => {
  vi.restoreAllMocks();
  await server.close();
});

/** With a session that stays. */
function connected(clientId: string): Promise<RawClient> {
  return connectRaw(server, key, { clientId, clean: false });
}

type Disk = { readonly reached: Promise<void>; letGo(error?: Error): void };

/** Holds the first commit that has a change like this one. */
function hold(isIt: (change: Change) => boolean): Disk {
  let told: () => void = () => {};
  let letGo: (error?: Error) => void = () => {};
  const reached = new Promise<void>((resolve) => (told = resolve));
  const gate = new Promise<void>((resolve, reject) => (letGo = (error) => (error === undefined ? resolve() : reject(error))));
  let isHeld = false;
  vi.spyOn(LevelState.prototype, 'commit').mockImplementation(async function (this: LevelState, changes, ...more) {
    if (!isHeld && changes.some(isIt)) {
      isHeld = true;
      told();
      await gate;
    }
    return commit.call(this, changes, ...more);
  });
  return { reached, letGo };
}

const isNote = (change: Change): boolean => 'put' in change && change.put.startsWith('mqtt/inbound/');
const isRelease = (change: Change): boolean => 'del' in change && change.del.startsWith('mqtt/inbound/');
const isPubrel = (change: Change): boolean =>
  'put' in change &&
  change.put.startsWith('mqtt/queue/') &&
  (typeof change.value === 'string' ? change.value : change.value()).includes('"pubrel"');

function message(dup = false, messageId = 7): Packet {
  return { cmd: 'publish', topic: 'a', payload: 'x', qos: 2, messageId, dup, retain: false };
}

async function reconnected(client: RawClient, clientId: string): Promise<RawClient> {
  client.vanish();
  return connected(clientId);
}

/** What came before the answer to a ping, and a little later. */
async function heardBy(client: RawClient): Promise<string[]> {
  const packets = await client.untilPong();
  await new Promise((resolve) => setTimeout(resolve, 100));
  packets.push(...(await client.untilPong()));
  return packets.map(({ cmd }) => cmd);
}

/** The message is being written when it comes again, over another connection. */
async function sentAgain(): Promise<Disk> {
  const disk = hold(isNote);
  publisher.send(message());
  await disk.reached;
  publisher = await reconnected(publisher, 'publisher');
  publisher.send(message(true));
  expect(await heardBy(publisher)).toEqual([]);
  return disk;
}

/** The message was taken, and that it is released is being written. */
async function releasing(): Promise<Disk> {
  publisher.send(message());
  expect(await publisher.next()).toMatchObject({ cmd: 'pubrec' });
  const disk = hold(isRelease);
  publisher.send({ cmd: 'pubrel', messageId: 7 });
  await disk.reached;
  return disk;
}

/** The subscriber has the message, and that it has is being written. */
async function receiving(): Promise<Disk> {
  publisher.send(message());
  expect(await subscriber.next()).toMatchObject({ cmd: 'publish', messageId: 1 });
  const disk = hold(isPubrel);
  subscriber.send({ cmd: 'pubrec', messageId: 1 });
  await disk.reached;
  return disk;
}

test('a message that comes again while it is being written gets its PUBREC once it is durable', async () => {
  const disk = await sentAgain();
  disk.letGo();
  expect(await publisher.next()).toMatchObject({ cmd: 'pubrec', messageId: 7 });
  expect(await subscriber.next()).toMatchObject({ cmd: 'publish' });
  expect(await heardBy(subscriber)).toEqual([]);
});

test('a message that comes again while it is being written, and is not, gets no PUBREC', async () => {
  const disk = await sentAgain();
  disk.letGo(new Error('refused'));
  expect(await publisher.nextOrEnd()).toBeUndefined();
  publisher = await connected('publisher');
  publisher.send(message(true));
  expect(await publisher.next()).toMatchObject({ cmd: 'pubrec', messageId: 7 });
});

test('a PUBREL that comes again while the release is being written gets its PUBCOMP once it is durable', async () => {
  const disk = await releasing();
  publisher = await reconnected(publisher, 'publisher');
  publisher.send({ cmd: 'pubrel', messageId: 7 });
  expect(await heardBy(publisher)).toEqual([]);
  disk.letGo();
  expect(await publisher.next()).toMatchObject({ cmd: 'pubcomp', messageId: 7 });
});

test('a release that cannot be written ends the connection, and is made over the next one', async () => {
  const disk = await releasing();
  disk.letGo(new Error('refused'));
  expect(await publisher.nextOrEnd()).toBeUndefined();
  await server.restart();
  publisher = await connected('publisher');
  // Until it is released it is the same message.
  publisher.send(message(true));
  expect(await publisher.next()).toMatchObject({ cmd: 'pubrec' });
  publisher.send({ cmd: 'pubrel', messageId: 7 });
  expect(await publisher.next()).toMatchObject({ cmd: 'pubcomp' });
  subscriber = await connected('subscriber');
  expect(await subscriber.next()).toMatchObject({ cmd: 'publish' });
  expect(await heardBy(subscriber)).toEqual([]);
});

test('PUBREL goes out once it is durable that it does, to a connection that has come meanwhile as well', async () => {
  const disk = await receiving();
  subscriber = await reconnected(subscriber, 'subscriber');
  expect(await heardBy(subscriber)).toEqual([]);
  disk.letGo();
  expect(await subscriber.next()).toMatchObject({ cmd: 'pubrel', messageId: 1 });
});

test('a PUBREL that cannot be written leaves the message as it was: it comes again', async () => {
  const disk = await receiving();
  disk.letGo(new Error('refused'));
  expect(await subscriber.nextOrEnd()).toBeUndefined();
  subscriber = await connected('subscriber');
  expect(await subscriber.next()).toMatchObject({ cmd: 'publish', messageId: 1, dup: true });
  subscriber.send({ cmd: 'pubrec', messageId: 1 });
  expect(await subscriber.next()).toMatchObject({ cmd: 'pubrel', messageId: 1 });
});

test('refused messages do not add up: a thousand and more on topics that are not allowed end no connection', async () => {
  const limited = await createKey(server, { allow: [{ filter: 'ok' }] });
  const client = await connectRaw(server, limited);
  for (let messageId = 1; messageId <= 1_200; messageId += 1) {
    client.send(message(false, messageId));
    expect(await client.next()).toMatchObject({ cmd: 'pubrec', messageId });
    client.send({ cmd: 'pubrel', messageId });
    expect(await client.next()).toMatchObject({ cmd: 'pubcomp', messageId });
  }
  client.vanish();
});
