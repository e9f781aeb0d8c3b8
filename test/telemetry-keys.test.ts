import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { LevelState } from '../broker/store/level/level-state.ts';
import { TelemetryKeys } from '../broker/telemetry/telemetry-keys.ts';
import { expectProblem } from './api-support.ts';
import { LiveServer } from './live-server.ts';

/** A device without a clock that sends its readings again, because no answer came: under an Idempotency-Key they are stored once. */
let server: LiveServer;
let token: string;

beforeEach(async () => {
  server = await LiveServer.start();
  token = await server.createDevice('meter');
});

afterEach(async () => {
  vi.restoreAllMocks();
  await server.close();
});

type Answer = { status: number; body: { accepted?: number }; headers: Headers };

const send = (path: string, key: string | undefined, body: unknown): Promise<Answer> =>
  server.request('POST', path, { credential: token, body, headers: key === undefined ? {} : { 'idempotency-key': key } });
const telemetry = (key: string | undefined, body: unknown): Promise<Answer> => send('/v1/device/telemetry', key, body);
const sync = (key: string | undefined, body: unknown): Promise<Answer> => send('/v1/device/sync', key, body);
const isReplay = ({ headers }: Answer): boolean => headers.get('idempotency-replayed') === 'true';

async function stored(): Promise<number[]> {
  const { body } = await server.request<{ points: { value: number }[] }>('GET', '/v1/devices/meter/telemetry?metric=level');
  return body.points.map(({ value }) => value);
}

describe.each([
  ['telemetry', telemetry, { level: 1 }, { level: 2 }],
  ['a sync', sync, { telemetry: { level: 1 } }, { telemetry: { level: 2 } }],
] as const)('%s', (_, post, one, two) => {
  test('is stored once under one key, and answered as the first time', async () => {
    const first = await post('1', one);
    expect([first.status < 300, isReplay(first)]).toEqual([true, false]);
    const second = await post('1', one);
    expect([second.status, second.body.accepted, isReplay(second)]).toEqual([first.status, first.body.accepted, true]);
    expect(isReplay(await post('2', one))).toBe(false);
    expect(isReplay(await post(undefined, one))).toBe(false);
    expect(await stored()).toEqual([1, 1, 1]);
  });

  test('is stored once when it comes several times at once, and after a restart', async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => post('k', one)));
    expect(answers.filter(isReplay)).toHaveLength(7);
    await server.restart();
    expect(isReplay(await post('k', one))).toBe(true);
    expect(await stored()).toEqual([1]);
  });

  test('with other readings under the same key is refused whole', async () => {
    await post('k', one);
    expectProblem(await post('k', two), 'idempotency_conflict', 'Idempotency-Key');
    expect(await stored()).toEqual([1]);
  });

  test('of another device is another', async () => {
    await post('k', one);
    token = await server.createDevice('other');
    expect(isReplay(await post('k', two))).toBe(false);
  });
});

test('a key that is not of visible ASCII characters is refused', async () => {
  expectProblem(await telemetry('a b', { level: 1 }), 'invalid_request', 'idempotency-key');
});

test('the last sixteen keys of a device are known', async () => {
  for (let i = 0; i < 18; i += 1) await telemetry(`k${i}`, { level: i });
  expect(isReplay(await telemetry('k2', { level: 2 }))).toBe(true);
  await server.restart();
  expect(isReplay(await telemetry('k17', { level: 17 }))).toBe(true);
  expect(isReplay(await telemetry('k1', { level: 1 }))).toBe(false);
});

test('what was refused for want of room is taken under its key once there is some', async () => {
  await server.close();
  server = await LiveServer.start({ journalBytesMax: 400 });
  token = await server.createDevice('meter');
  const large = { level: 1, text: 'x'.repeat(900) };
  expectProblem(await telemetry('k', large), 'journal_full');
  expectProblem(await telemetry('k', large), 'journal_full');
  expect((await telemetry('k', { level: 1 })).status).toBe(202);
  expect(isReplay(await telemetry('k', { level: 1 }))).toBe(true);
});

test('a device that is deleted and registered anew begins anew', async () => {
  await telemetry('k', { level: 1 });
  await server.request('DELETE', '/v1/devices/meter');
  token = await server.createDevice('meter');
  expect(isReplay(await telemetry('k', { level: 1 }))).toBe(false);
});

test('a device and its keys are deleted in one turn: a crash leaves both or neither', async () => {
  await telemetry('k', { level: 1 });
  let isDown = false;
  // oxlint-disable-next-line typescript/unbound-method -- it is called with its own.
  const commit = LevelState.prototype.commit;
  vi.spyOn(LevelState.prototype, 'commit').mockImplementation(function (this: LevelState, changes, ...more) {
    if (isDown) return Promise.reject(new Error('down'));
    if (changes.some((change) => 'del' in change && change.del === 'device/meter')) setImmediate(() => (isDown = true));
    return commit.call(this, changes, ...more);
  });
  await server.request('DELETE', '/v1/devices/meter');
  expect(isDown).toBe(true);
  vi.restoreAllMocks();
  await server.restart();
  token = await server.createDevice('meter');
  expect(isReplay(await telemetry('k', { level: 1 }))).toBe(false);
});

test('what is known of a device stays in memory from loading to looking, however many others come', async () => {
  const state = await LevelState.open({ folder: join(server.dataDir, 'other'), journalBytesMax: 1e6, clock: { now: () => 0 } });
  const keys = new TelemetryKeys(state, 2);
  for (const id of ['a', 'b', 'a', 'c']) await keys.load(id);
  expect(keys.look('a', 'k', [], 0)).toMatchObject({ isRepeat: false });
  await state.close();
});
