import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CommandLedger } from '../broker/commands/command-ledger.ts';
import { SleepAdvisor } from '../broker/commands/sleep-advisor.ts';
import { LiveEvents } from '../broker/live-events.ts';
import { DeviceRegistry } from '../broker/registry/device-registry.ts';
import { PresenceTracker } from '../broker/registry/presence-tracker.ts';
import { SecretDigests } from '../broker/registry/secrets.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { TimeMark } from '../broker/time-mark.ts';
import { DAY_MS, MINUTE_MS, SECOND_MS } from '../devices/clock.ts';
import type { Command } from '../devices/command.ts';
import type { Device, Wake } from '../devices/device.ts';
import { forecast } from '../devices/forecast.ts';
import { isAlert } from '../devices/presence.ts';
import { nextWakeAt } from '../devices/wake-schedule.ts';
import type { Sleep } from '../devices/sleep-hint.ts';
import { TestClock } from './live-server.ts';

/**
 * A year of wakes, by the parts that the server has, under a clock that jumps from one contact to the next: what was forecast against what
 * happened. Devices follow the hint or their own schedule, come a little late, are met on other occasions, and poll more than once a wake.
 */
const SEED = Number(process.env['SEED'] ?? 20_261_121);
const START = Date.parse('2026-01-01T00:00:00Z');
const YEAR_MS = 365 * DAY_MS;

const WAKES_TO_LEARN = 8;

type Way = 'hint' | 'retry-after' | 'schedule';

const SCHEDULES: readonly (readonly [string, Wake])[] = [
  ['half-hourly at night in Lord Howe', { cron: '*/30 0-5 * * *', timezone: 'Australia/Lord_Howe' }],
  ['hourly in Berlin', { cron: '0 * * * *', timezone: 'Europe/Berlin' }],
  ['daily in the hour that is skipped', { cron: '30 2 * * *', timezone: 'Europe/Berlin' }],
  ['daily in the hour that is repeated', { cron: '30 1 * * *', timezone: 'America/New_York' }],
  ['on working days', { cron: '15 6,18 * * 1-5', timezone: 'America/New_York' }],
  ['every ten minutes', { everySeconds: 600 }],
  ['every seven hours', { everySeconds: 25_200 }],
  ['hourly with a wide slack', { cron: '0 * * * *', timezone: 'Europe/Berlin', slackSeconds: 1_200 }],
  ['every two hours within bounds', { everySeconds: 7_200, minSeconds: 900, maxSeconds: 28_800 }],
];

let folder: string;
let state: LevelState;
let registry: DeviceRegistry;
let ledger: CommandLedger;
let presence: PresenceTracker;
let advisor: SleepAdvisor;
let events: LiveEvents;
const clock = new TestClock(START);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-test-'));
  state = await LevelState.open({ folder, journalBytesMax: 1024 * 1024, clock });
  registry = new DeviceRegistry(state, await SecretDigests.open(state), clock);
  events = new LiveEvents('run', clock);
  ledger = new CommandLedger(state, events, clock, await TimeMark.load(state));
  presence = new PresenceTracker(registry, state, events, clock);
  advisor = new SleepAdvisor(ledger, registry, presence, { pressure: 0 }, clock);
});

afterAll(async () => {
  await presence.close();
  await ledger.close();
  await state.close();
  await rm(folder, { recursive: true, force: true });
});

describe(`a simulated year (seed ${SEED})`, () => {
  const ways: readonly Way[] = ['hint', 'retry-after', 'schedule'];
  const cases = SCHEDULES.flatMap(([name, wake]) => ways.map((way) => [name, way, wake] as const));

  test.each(cases)('%s, by %s: each wake is forecast, and nothing is called late', async (name, way, wake) => {
    const index = cases.findIndex(([n, w]) => n === name && w === way);
    clock.advance(START - clock.now());
    const { device } = await registry.create({ id: `year-${index}`, wake });
    const told = await liveThrough(device, way, randomFrom(SEED + index));
    expect(told).toEqual({ alerts: 0, missed: 0, unexpected: 0, wrongRefusals: 0, wakes: told.wakes, forecasts: told.forecasts });
    expect(told.forecasts).toBeGreaterThan(200);
  });
});

type Outcome = { alerts: number; missed: number; unexpected: number; wrongRefusals: number; wakes: number; forecasts: number };

async function liveThrough(device: Device, way: Way, random: () => number): Promise<Outcome> {
  const outcome: Outcome = { alerts: 0, missed: 0, unexpected: 0, wrongRefusals: 0, wakes: 0, forecasts: 0 };
  const unsubscribe = events.subscribe(({ event }) => {
    if (event.type === 'presence' && isAlert(event.presence.state)) outcome.alerts += 1;
  });
  const wakeAt = (at: number): Sleep => {
    clock.advance(at - clock.now());
    presence.contact(device.id);
    return advisor.advise(device, { more: false });
  };
  let sleep = wakeAt(START + Math.floor(random() * DAY_MS));
  outcome.wakes = 1;
  while (clock.now() < START + YEAR_MS) {
    const asleepAt = clock.now();
    const lateMs = Math.floor(random() * 1_500);
    const due = comesAt(device, way, sleep, asleepAt);
    const next = due + lateMs;
    const isMetBetween = random() < 0.02 && next - asleepAt > 10 * MINUTE_MS;
    const comes = isMetBetween ? asleepAt + Math.floor((0.2 + random() * 0.5) * (next - asleepAt)) : next;
    // What it keeps to is learned on the first wakes; a contact that nothing could foresee is not forecast.
    if (outcome.wakes > WAKES_TO_LEARN && !isMetBetween) checkForecast(device, { asleepAt, due, comes }, random, outcome);
    clock.advance(comes - 1 - clock.now());
    presence.refresh(device.id);
    if (presence.presence(device.id).state !== 'asleep') outcome.missed += 1;
    sleep = wakeAt(comes);
    // More than one request a wake: what is told last counts.
    if (random() < 0.3) sleep = wakeAt(comes + 700);
    outcome.wakes += 1;
    if (outcome.wakes % 1_000 === 0) await Promise.resolve();
  }
  unsubscribe();
  return outcome;
}

/** An operator asks at some time before the wake, for a command that expires within two sleeps or so. */
function checkForecast(
  device: Device,
  { asleepAt, due, comes }: { asleepAt: number; due: number; comes: number },
  random: () => number,
  outcome: Outcome,
): void {
  const now = asleepAt + 1 + Math.floor(random() * (due - asleepAt - 2));
  const expiresAt = now + Math.floor(random() * 2 * (comes - asleepAt));
  const contact = { ...presence.contacts(device.id), reachable: false };
  const told = forecast({ state: 'queued', expiresAt } as Command, device, contact, now);
  outcome.forecasts += 1;
  const offBy = comes - (told.expectedAt ?? 0);
  // As late as the device was, and what Retry-After rounds up.
  if (told.expectedAt === undefined || told.expectedAt !== told.nextWakeAt || offBy < -3 * SECOND_MS || offBy > 3 * SECOND_MS)
    outcome.unexpected += 1;
  const isRefused = told.wakesBeforeExpiry === 0;
  const isClear = Math.abs(expiresAt - comes) > 3 * SECOND_MS;
  if (isClear && isRefused !== expiresAt < comes) outcome.wrongRefusals += 1;
}

function comesAt({ wake }: Device, way: Way, sleep: Sleep, asleepAt: number): number {
  if (way === 'hint') return sleep.wakeAt;
  if (way === 'retry-after') return asleepAt + sleep.untilSeconds * SECOND_MS;
  const plain = wake && nextWakeAt(wake, asleepAt, asleepAt);
  if (plain === undefined) throw new Error('the schedule ended');
  return plain;
}

/** Numbers in [0, 1) that the seed fixes (mulberry32). */
function randomFrom(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d_2b_79_f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
