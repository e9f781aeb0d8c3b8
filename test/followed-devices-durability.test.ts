import type { Packet } from 'mqtt-packet';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { LevelState } from '../broker/store/level/level-state.ts';
import type { Change } from '../broker/store/state.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { LiveServer } from './live-server.ts';
import { connectRaw, createKey, type ProgramKey, type RawClient } from './raw-client.ts';

/** What a device sends with QoS 2 and what a program that is away is to have of it are one: after a crash both are there, or neither is. */
const FILTERS = ['devices/+/telemetry', 'devices/+/commands/+'];
const TELEMETRY = 'devices/pump/telemetry';

let server: LiveServer;
let device: ProgramKey;
let program: ProgramKey;
// oxlint-disable-next-line typescript/unbound-method -- it is called with its own.
const commit = LevelState.prototype.commit;

beforeEach(async () => {
  server = await LiveServer.start();
  device = { id: 'pump', key: await server.createDevice('pump') };
  program = await createKey(server);
  const subscriber = await follower();
  subscriber.send({ cmd: 'subscribe', messageId: 1, subscriptions: FILTERS.map((topic) => ({ topic, qos: 2 })) });
  await subscriber.next();
  subscriber.vanish();
  await subscriber.closed;
});

afterEach(async () => {
  vi.restoreAllMocks();
  await server.close();
});

function follower(): Promise<RawClient> {
  return connectRaw(server, program, { clientId: 'follower', clean: false });
}

function sender(): Promise<RawClient> {
  return connectRaw(server, device, { clientId: 'pump', clean: false });
}

function message(topic: string, payload: string, dup = false): Packet {
  return { cmd: 'publish', topic, payload, qos: 2, messageId: 7, dup, retain: false };
}

/** What is committed after the turn in which the message is never gets to the disk. Resolves when that turn is over. */
function crashAfter(isIt: (change: Change) => boolean): Promise<void> {
  let hasCrashed = false;
  return new Promise((resolve) => {
    vi.spyOn(LevelState.prototype, 'commit').mockImplementation(function (this: LevelState, changes, ...more) {
      if (hasCrashed && changes.length > 0) return Promise.reject(new DownlinkError('shutting_down', 'crashed'));
      if (changes.some(isIt)) {
        queueMicrotask(() => {
          hasCrashed = true;
          resolve();
        });
      }
      return commit.call(this, changes, ...more);
    });
  });
}

async function crashedWith(sent: (dup: boolean) => Packet, isIt: (change: Change) => boolean): Promise<void> {
  const client = await sender();
  const crashed = crashAfter(isIt);
  client.send(sent(false));
  await crashed;
  client.vanish();
  await server.restart(() => vi.restoreAllMocks());
  const again = await sender();
  again.send(sent(true));
  expect(await again.next()).toMatchObject({ cmd: 'pubrec', messageId: 7 });
}

/** The payloads that the program is given when it comes back. */
async function followed(): Promise<string[]> {
  const back = await follower();
  const packets = await back.untilPong();
  return packets.flatMap((packet) => (packet.cmd === 'publish' ? [packet.payload.toString()] : []));
}

const isTaken = (change: Change): boolean => 'put' in change && change.put.startsWith('qos2/');

test('a reading that was taken right before a crash reaches the program that follows it, once', async () => {
  await crashedWith((dup) => message(TELEMETRY, '{"level":1}', dup), isTaken);
  expect(await followed()).toEqual(['{"level":1}']);
});

test('a report that was taken right before a crash reaches the program that follows it, once', async () => {
  const { id } = await server.issue('pump', { name: 'show' });
  await crashedWith((dup) => message(`devices/pump/commands/${id}`, '{"state":"succeeded"}', dup), isTaken);
  expect(await server.command(id)).toMatchObject({ state: 'succeeded' });
  expect((await followed()).filter((payload) => payload.includes('succeeded'))).toEqual(['{"state":"succeeded"}']);
});

test('a reading that cannot be stored is not told to the program that follows it', async () => {
  const client = await sender();
  vi.spyOn(LevelState.prototype, 'commit').mockImplementation(function (this: LevelState, changes, ...more) {
    return changes.some(isTaken) ? Promise.reject(new Error('refused')) : commit.call(this, changes, ...more);
  });
  client.send(message(TELEMETRY, '{"level":1}'));
  expect(await client.nextOrEnd()).toBeUndefined();
  vi.restoreAllMocks();
  expect(await followed()).toEqual([]);
});
