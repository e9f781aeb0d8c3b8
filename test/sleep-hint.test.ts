import { describe, expect, test } from 'vitest';
import { fill, Overload } from '../broker/overload.ts';
import { HOUR_MS, MINUTE_MS, SECOND_MS } from '../devices/clock.ts';
import type { Device, Wake } from '../devices/device.ts';
import { presenceOf } from '../devices/presence.ts';
import { sleepHint, type SleepFacts } from '../devices/sleep-hint.ts';
import { assertWakeSchedule } from '../devices/wake-schedule.ts';

const NOON = Date.parse('2026-05-01T12:00:00Z');
const HOURLY = '0 * * * *';

type Sleeper = Pick<Device, 'id' | 'wake' | 'graceSeconds' | 'limits'>;

const sleeper = (wake: Wake | undefined, id = 'd'): Sleeper => ({ id, ...(wake && { wake }), graceSeconds: 60, limits: {} });
const facts = (now: number, more: Partial<SleepFacts> = {}): SleepFacts => ({
  now,
  wokeAt: now,
  sleptMs: 0,
  more: false,
  isQueued: false,
  pressure: 0,
  ...more,
});
const hint = (wake: Wake | undefined, more: Partial<SleepFacts> = {}, now = NOON) => sleepHint(sleeper(wake), facts(now, more));

describe('a device with a schedule', () => {
  test('is told its next wake, in its own slot of the slack, the same one each time', () => {
    const first = hint({ cron: HOURLY });
    expect(first.reason).toBe('schedule');
    expect(first.wakeAt).toBeGreaterThanOrEqual(NOON + HOUR_MS);
    expect(first.wakeAt).toBeLessThan(NOON + HOUR_MS + 31_000);
    expect(hint({ cron: HOURLY }, {}, first.wakeAt).wakeAt).toBe(first.wakeAt + HOUR_MS);
  });

  test('is told the time of the schedule itself when there is no slack', () => {
    expect(hint({ cron: HOURLY, slackSeconds: 0 })).toEqual({ untilSeconds: 3_600, wakeAt: NOON + HOUR_MS, reason: 'schedule' });
    expect(hint({ everySeconds: 900, slackSeconds: 0 })).toEqual({
      untilSeconds: 900,
      wakeAt: NOON + 900_000,
      reason: 'schedule',
    });
  });

  test('that comes a little before its wake, as a clock that runs fast makes it, has made that wake', () => {
    const now = NOON - 20 * SECOND_MS;
    const early = hint({ cron: HOURLY, slackSeconds: 0 }, { sleptMs: HOUR_MS }, now);
    expect(early.wakeAt).toBe(NOON + HOUR_MS);
    const onOtherOccasion = hint({ cron: HOURLY, slackSeconds: 0 }, { sleptMs: MINUTE_MS }, now);
    expect(onOtherOccasion.wakeAt).toBe(NOON);
  });

  test('is told to come again at once while there is more', () => {
    expect(hint({ cron: HOURLY }, { more: true })).toEqual({ untilSeconds: 0, wakeAt: NOON, reason: 'pending' });
  });

  test('comes sooner for what is urgent, as far as its bounds allow', () => {
    const dueAt = NOON + 10 * MINUTE_MS;
    expect(hint({ cron: HOURLY }, { dueAt, isQueued: true }).reason).toBe('schedule');
    const sooner = hint({ cron: HOURLY, minSeconds: 300 }, { dueAt, isQueued: true });
    expect(sooner.reason).toBe('pending');
    expect(sooner.wakeAt - dueAt).toBeGreaterThanOrEqual(0);
    expect(sooner.wakeAt - dueAt).toBeLessThanOrEqual(6_000);
    const bounded = hint({ cron: HOURLY, minSeconds: 1_200 }, { dueAt, isQueued: true });
    expect(bounded.untilSeconds).toBeGreaterThanOrEqual(1_200);
  });

  test('comes sooner while much happens and later while nothing does, within its bounds and to wakes of its schedule', () => {
    const bounded: Wake = { cron: HOURLY, minSeconds: 300, maxSeconds: 4 * 3_600, slackSeconds: 0 };
    const often = { at: NOON - SECOND_MS, gapMs: 20 * SECOND_MS };
    const seldom = { at: NOON - 100 * HOUR_MS, gapMs: HOUR_MS };
    expect(hint(bounded, { activity: often })).toMatchObject({ untilSeconds: 300, reason: 'activity' });
    expect(hint(bounded, { activity: seldom })).toMatchObject({ wakeAt: NOON + 4 * HOUR_MS, reason: 'activity' });
    expect(hint(bounded, { activity: seldom, isQueued: true })).toMatchObject({ wakeAt: NOON + HOUR_MS, reason: 'schedule' });
    expect(hint({ cron: HOURLY, slackSeconds: 0 }, { activity: often }).wakeAt).toBe(NOON + HOUR_MS);
  });

  test('is put off by a busy server, never beyond maxSeconds, and not while commands wait for it', () => {
    const wake: Wake = { cron: HOURLY, maxSeconds: 5_400 };
    const calm = hint(wake);
    const busy = hint(wake, { pressure: 1 });
    expect(busy.reason).toBe('busy');
    expect(busy.untilSeconds).toBeGreaterThan(calm.untilSeconds + 800);
    expect(busy.untilSeconds).toBeLessThanOrEqual(5_400);
    expect(hint(wake, { pressure: 0.2 }).untilSeconds).toBeLessThan(busy.untilSeconds);
    expect(hint(wake, { pressure: 1, isQueued: true })).toEqual(calm);
    expect(hint(wake, { pressure: 1, more: true })).toMatchObject({ reason: 'busy', untilSeconds: expect.any(Number) });
  });
});

describe('a device without a schedule', () => {
  test('polls every half minute at first, sooner while much happens, and later while nothing does', () => {
    expect(hint(undefined)).toMatchObject({ untilSeconds: 30, reason: 'schedule' });
    expect(hint(undefined, { activity: { at: NOON - 100, gapMs: 1_000 } })).toMatchObject({
      untilSeconds: 5,
      reason: 'activity',
    });
    expect(hint(undefined, { activity: { at: NOON - HOUR_MS, gapMs: 1_000 } })).toMatchObject({
      untilSeconds: 150,
      reason: 'activity',
    });
    expect(hint({ minSeconds: 60, maxSeconds: 120 })).toMatchObject({ untilSeconds: 60 });
    expect(hint({ maxSeconds: 600 }, { activity: { at: NOON - HOUR_MS, gapMs: 0 } })).toMatchObject({ untilSeconds: 600 });
  });

  test('is told to come when its command may go out', () => {
    const { untilSeconds, reason } = hint(undefined, { dueAt: NOON + 12_000, isQueued: true });
    expect(reason).toBe('pending');
    expect(untilSeconds).toBeGreaterThanOrEqual(12);
    expect(untilSeconds).toBeLessThanOrEqual(18);
  });
});

describe('what the server promised', () => {
  const seen = { sessions: 0, parked: 0, lastContactAt: NOON };
  const hourly = sleeper({ cron: HOURLY });

  test('makes nobody late: neither who was told to come later nor who was told sooner and keeps to the schedule', () => {
    const at = (promisedWakeAt: number, now: number) => presenceOf(hourly, { ...seen, promisedWakeAt }, now).state;
    expect(at(NOON + 2 * HOUR_MS, NOON + 2 * HOUR_MS + 59_000)).toBe('asleep');
    expect(at(NOON + 2 * HOUR_MS, NOON + 2 * HOUR_MS + 60_000)).toBe('late');
    expect(at(NOON + 600_000, NOON + HOUR_MS + 59_000)).toBe('asleep');
    expect(at(NOON + 600_000, NOON + HOUR_MS + 60_000)).toBe('late');
  });

  test('counts for devices without a schedule too', () => {
    const patient = sleeper({ maxSeconds: 3_600 });
    const state = (now: number) => presenceOf(patient, { ...seen, promisedWakeAt: NOON + HOUR_MS }, now).state;
    expect(state(NOON + HOUR_MS + 59_000)).toBe('asleep');
    expect(state(NOON + HOUR_MS + 60_000)).toBe('lost');
  });
});

describe('bounds and slack that do not fit', () => {
  test.each<[Wake, RegExp]>([
    [{ cron: HOURLY, minSeconds: 20, maxSeconds: 10 }, /wake\.minSeconds is 20, more than wake\.maxSeconds, 10/],
    [{ minSeconds: 20, maxSeconds: 10 }, /wake\.minSeconds/],
    [{ everySeconds: 60, minSeconds: 61 }, /wake\.minSeconds is 61, more than wake\.everySeconds, 60/],
    [{ everySeconds: 60, maxSeconds: 59 }, /wake\.maxSeconds/],
    [{ everySeconds: 60, slackSeconds: 31 }, /wake\.slackSeconds is 31, more than half of the 60 s/],
    [{ cron: '*/5 * * * *', slackSeconds: 151 }, /wake\.slackSeconds/],
  ])('%j is refused by name', (wake, words) => {
    expect(() => assertWakeSchedule(wake, NOON)).toThrow(words);
  });
});

describe('10,000 sleepers', () => {
  const ids = (kind: string): string[] =>
    Array.from({ length: 10_000 }, (_, i) =>
      kind === 'numbered' ? `meter-${i}` : `m-${(i * 2_654_435_761) % 2 ** 32}-${(i * 40_503) % 65_521}x`,
    );

  test.each([
    ['numbered', 1.05],
    ['random', 1.35],
  ])('with %s ids on one cron schedule, booted together, come evenly over their slack', (kind, widest) => {
    let wakes = ids(kind).map((id) => ({ id, at: NOON - 10 * MINUTE_MS }));
    for (let wake = 1; wake <= 3; wake += 1) wakes = wakes.map(({ id, at }) => next({ cron: HOURLY }, id, at));
    const { ratio, seconds } = spread(wakes.map(({ at }) => at));
    console.log(`cron, ${kind} ids: over ${seconds} s, widest second ${ratio.toFixed(2)} x the mean`);
    expect(seconds).toBeGreaterThanOrEqual(30);
    expect(ratio).toBeLessThan(widest);
  });

  test.each([
    ['numbered', 2.5],
    ['random', 2.75],
  ])('with %s ids on one interval, booted within a second, part at once and stay apart', (kind, widest) => {
    let wakes = ids(kind).map((id, i) => ({ id, at: NOON + (i % 1_000) }));
    const told: string[] = [];
    for (let wake = 1; wake <= 40; wake += 1) {
      wakes = wakes.map(({ id, at }) => next({ everySeconds: 600 }, id, at));
      const { ratio, seconds } = spread(wakes.map(({ at }) => at));
      if ([1, 3, 10, 40].includes(wake)) told.push(`wake ${wake}: over ${seconds} s, ${ratio.toFixed(2)} x`);
      expect(ratio, `wake ${wake}`).toBeLessThan(widest);
      expect(seconds, `wake ${wake}`).toBeGreaterThan(600 * (1 - 0.8 ** wake) - 5);
    }
    console.log(`interval, ${kind} ids, widest second against the mean: ${told.join('; ')}`);
  });

  function next(wake: Wake, id: string, at: number): { id: string; at: number } {
    const { untilSeconds } = sleepHint(sleeper(wake, id), facts(at, { sleptMs: HOUR_MS }));
    return { id, at: at + untilSeconds * SECOND_MS };
  }

  function spread(times: readonly number[]): { ratio: number; seconds: number } {
    const counts = new Map<number, number>();
    for (const time of times) counts.set(Math.floor(time / SECOND_MS), (counts.get(Math.floor(time / SECOND_MS)) ?? 0) + 1);
    const first = Math.min(...counts.keys());
    const seconds = Math.max(...counts.keys()) - first + 1;
    return { ratio: Math.max(...counts.values()) / (times.length / seconds), seconds };
  }
});

describe('overload', () => {
  test('begins when a source stays high, says how bad it is, and ends only when all have stayed low', () => {
    let used = 0;
    const overload = new Overload([fill('queue', 0.5, () => ({ used, max: 100 })), { name: 'other', read: () => 0 }]);
    const after = (value: number, samples: number): number => {
      used = value;
      for (let i = 0; i < samples; i += 1) overload.sample();
      return overload.pressure;
    };
    expect(after(90, 2)).toBe(0);
    expect(after(40, 1)).toBe(0);
    expect(after(90, 3)).toBeCloseTo(0.8);
    expect(after(200, 1)).toBe(1);
    expect(after(70, 9)).toBeCloseTo(0.4);
    expect(after(40, 2)).toBe(0);
    expect(after(90, 1)).toBeCloseTo(0.8);
    expect(after(40, 3)).toBe(0);
    expect(after(70, 9)).toBe(0);
    expect([...overload.readings]).toEqual([
      ['queue', expect.closeTo(0.4)],
      ['other', 0],
    ]);
  });
});
