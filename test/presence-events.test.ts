import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { LiveEvents } from '../broker/live-events.ts';
import { DeviceRegistry } from '../broker/registry/device-registry.ts';
import { PresenceTracker, SETTLE_MS } from '../broker/registry/presence-tracker.ts';
import { SecretDigests } from '../broker/registry/secrets.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { HOUR_MS, MINUTE_MS } from '../devices/clock.ts';
import type { Wake } from '../devices/device.ts';
import { TestClock } from './live-server.ts';

const NOON = Date.parse('2026-05-01T12:00:00Z');

let folder: string;
let clock: TestClock;
let state: LevelState;
let registry: DeviceRegistry;
let presence: PresenceTracker;
let told: string[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-test-'));
  clock = new TestClock(NOON);
  await open();
});

afterEach(async () => {
  await close();
  await rm(folder, { recursive: true, force: true });
});

async function open(): Promise<void> {
  state = await LevelState.open({ folder, journalBytesMax: 1024 * 1024, clock });
  registry = new DeviceRegistry(state, await SecretDigests.open(state), clock);
  await registry.load();
  const events = new LiveEvents('run', clock);
  presence = new PresenceTracker(registry, state, events, clock);
  await presence.load();
  told = [];
  events.subscribe(({ event }) => {
    if (event.type === 'presence') told.push(`${event.from} ${event.presence.state}`);
  });
}

async function close(): Promise<void> {
  await presence.close();
  await state.close();
}

async function device(wake?: Wake): Promise<void> {
  await registry.create({ id: 'd', ...(wake && { wake }) });
}

/** What a deadline does when it comes. */
function after(ms: number): void {
  clock.advance(ms);
  presence.refresh('d');
}

test('a session that drops and returns at once is not told, one that stays away is', async () => {
  await device();
  presence.session('d', 1);
  presence.session('d', -1);
  after(SETTLE_MS - 1);
  presence.session('d', 1);
  after(SETTLE_MS);
  expect(told).toEqual(['never online']);
  presence.session('d', -1);
  after(SETTLE_MS);
  expect(told).toEqual(['never online', 'online asleep']);
});

test('long polls one after the other are told as one waiting', async () => {
  await device();
  for (let poll = 0; poll < 5; poll += 1) {
    presence.contact('d');
    presence.park('d', 1);
    after(MINUTE_MS);
    expect(presence.presence('d').state).toBe('waiting');
    presence.park('d', -1);
    after(100);
  }
  expect(told).toEqual(['never asleep', 'asleep waiting']);
  after(SETTLE_MS);
  expect(told.at(-1)).toBe('waiting asleep');
});

test('of two connections at once the loss of one is nothing', async () => {
  await device();
  presence.session('d', 1);
  presence.session('d', 1);
  presence.park('d', 1);
  presence.session('d', -1);
  presence.park('d', -1);
  after(SETTLE_MS);
  expect(told).toEqual(['never online']);
});

test('a sleeper that stays away is late, missed and lost in turn, and its return is told at once', async () => {
  await device({ everySeconds: 600 });
  presence.contact('d');
  after(10 * MINUTE_MS);
  expect(told).toEqual(['never asleep']);
  for (let i = 0; i < 4; i += 1) after(10 * MINUTE_MS + 1);
  presence.contact('d');
  expect(told).toEqual(['never asleep', 'asleep late', 'late missed', 'missed lost', 'lost asleep']);
});

test('a promise outlasts a restart, in presence and in what is expected', async () => {
  await device({ cron: '0 * * * *' });
  presence.contact('d');
  presence.promise('d', NOON + 3 * HOUR_MS);
  await close();
  clock.advance(2 * HOUR_MS);
  await open();
  expect(presence.presence('d')).toMatchObject({ state: 'asleep', missedWakes: 0, nextWakeAt: NOON + 3 * HOUR_MS });
  after(HOUR_MS + MINUTE_MS);
  expect(told).toEqual(['asleep late']);
});

test('a promise that is taken back for a sooner one is what counts', async () => {
  await device();
  presence.contact('d');
  presence.promise('d', NOON + 3 * HOUR_MS);
  after(SETTLE_MS);
  presence.promise('d', NOON + MINUTE_MS);
  after(5 * MINUTE_MS);
  expect(told).toEqual(['never asleep', 'asleep lost']);
});

test('wakes that fall into a time in which the server was down are not missed, those before and after it are', async () => {
  await device({ cron: '0 * * * *' });
  await registry.create({ id: 'late', wake: { cron: '0 * * * *' } });
  presence.contact('late');
  clock.advance(HOUR_MS);
  presence.contact('d');
  clock.advance(2 * MINUTE_MS);
  await close();
  clock.advance(3 * HOUR_MS);
  await open();
  expect(presence.presence('d').state).toBe('asleep');
  expect(presence.presence('late')).toMatchObject({ state: 'lost' });
  after(58 * MINUTE_MS);
  expect(told).toEqual([]);
  after(MINUTE_MS);
  expect(told).toEqual(['asleep late']);
});

test('a silence in which the server was down is not held against a device', async () => {
  await device();
  presence.contact('d');
  await close();
  clock.advance(HOUR_MS);
  await open();
  expect(presence.presence('d').state).toBe('asleep');
  after(5 * MINUTE_MS);
  expect(told).toEqual(['asleep lost']);
});
