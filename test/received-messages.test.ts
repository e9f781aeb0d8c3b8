import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ReceivedMessages, type ReceivedMessage } from '../broker/mqtt/received-messages.ts';
import { LevelState } from '../broker/store/level/level-state.ts';

/** QoS 2 messages of devices between PUBLISH and PUBREL, known by device: across restarts, and nobody's but their own. */
const UNRELEASED_MAX = 3;
let folder: string;
let state: LevelState;
let received: ReceivedMessages;
let refused: string[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-received-'));
  refused = [];
  await open();
});

afterEach(async () => {
  await state.close();
  await rm(folder, { recursive: true });
});

async function open(): Promise<void> {
  state = await LevelState.open({ folder, journalBytesMax: 1_000_000, clock: { now: () => Date.now() } });
  received = new ReceivedMessages(state, UNRELEASED_MAX, (deviceId) => refused.push(deviceId));
  await received.load();
}

async function restart(): Promise<void> {
  await state.close();
  await open();
}

/** How it came out: `taken`, `not_now` or `repeat`. */
async function take(device: string, messageId: number, more: Partial<ReceivedMessage> = {}): Promise<string> {
  const message = {
    messageId,
    dup: false,
    topic: `devices/${device}/telemetry`,
    payload: Buffer.from(`{"n":${messageId}}`),
    ...more,
  };
  const outcome = await received.once(device, message, async (changes) => {
    await state.commit(changes, []);
    return { outcome: 'taken' };
  });
  return outcome === 'repeat' ? outcome : outcome.outcome;
}

const again = (device: string, messageId: number, more: Partial<ReceivedMessage> = {}) =>
  take(device, messageId, { dup: true, ...more });

test('a message that comes again before its release is the same, after a restart as well; then its id is free', async () => {
  expect(await take('a', 1)).toBe('taken');
  expect(await again('a', 1)).toBe('repeat');
  await restart();
  expect(await again('a', 1)).toBe('repeat');
  expect(await again('a', 1, { payload: Buffer.from('{"n":"another"}') })).toBe('taken');
  await received.release('a', 1);
  expect(await again('a', 1)).toBe('taken');
  await received.release('a', 1);
  await restart();
  expect(await again('a', 1)).toBe('taken');
});

test('a device that begins anew has its own forgotten, and no other’s, whatever their ids begin with', async () => {
  const devices = ['a', 'a-b', 'a.1', 'ab', 'b'];
  for (const device of devices) for (const id of [1, 2]) expect(await take(device, id)).toBe('taken');
  await restart();
  await received.forget('a');
  for (const isRestarted of [false, true]) {
    if (isRestarted) await restart();
    for (const device of devices.slice(1)) for (const id of [1, 2]) expect(await again(device, id)).toBe('repeat');
  }
  for (const id of [1, 2]) expect(await again('a', id)).toBe('taken');
});

test('a device has so many, those under way among them; another has its own, and released ones count no more', async () => {
  const outcomes = await Promise.all([1, 2, 3, 4].map((id) => take('a', id)));
  expect(outcomes).toEqual(['taken', 'taken', 'taken', 'not_now']);
  expect(await take('b', 1)).toBe('taken');
  // An id that is taken already is not one more.
  expect(await take('a', 2, { payload: Buffer.from('{}') })).toBe('taken');
  await restart();
  expect(await take('a', 4)).toBe('not_now');
  expect(refused).toEqual(['a', 'a']);
  await received.release('a', 3);
  expect(await take('a', 4)).toBe('taken');
});

test('of one that came twice at once the second waits for the first, and is taken where that was not', async () => {
  let settle: (outcome: 'taken' | 'not_now') => void = () => {};
  const first = received.once(
    'a',
    { messageId: 1, dup: false, topic: 't', payload: Buffer.from('1') },
    () =>
      new Promise((resolve) => {
        settle = (outcome) => resolve(outcome === 'taken' ? { outcome } : { outcome, error: new Error('full') as never });
      }),
  );
  const second = again('a', 1, { topic: 't', payload: Buffer.from('1') });
  settle('not_now');
  expect(await first).toMatchObject({ outcome: 'not_now' });
  expect(await second).toBe('taken');
});
