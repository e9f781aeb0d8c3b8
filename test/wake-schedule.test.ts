import { describe, expect, test } from 'vitest';
import { assertWakeSchedule, countWakes, nextWakeAt, nthWakeAt } from '../devices/wake-schedule.ts';
import { forecast } from '../devices/forecast.ts';
import { presenceOf } from '../devices/presence.ts';
import type { Command } from '../devices/command.ts';

const at = (text: string): number => Date.parse(text);
const iso = (ms: number | undefined): string | undefined => (ms === undefined ? undefined : new Date(ms).toISOString());

describe('cron schedules', () => {
  test('name the next time in UTC when no zone is given', () => {
    expect(iso(nextWakeAt({ cron: '*/15 * * * *' }, at('2026-03-01T10:07:00Z'), undefined))).toBe('2026-03-01T10:15:00.000Z');
  });

  test('are exclusive of the time asked from', () => {
    expect(iso(nextWakeAt({ cron: '0 * * * *' }, at('2026-03-01T10:00:00Z'), undefined))).toBe('2026-03-01T11:00:00.000Z');
  });

  test('follow the wall clock of their zone through both change days', () => {
    const daily = { cron: '30 6 * * *', timezone: 'Europe/Berlin' };
    expect(iso(nextWakeAt(daily, at('2026-03-28T12:00:00Z'), undefined))).toBe('2026-03-29T04:30:00.000Z');
    expect(iso(nextWakeAt(daily, at('2026-10-24T12:00:00Z'), undefined))).toBe('2026-10-25T05:30:00.000Z');
  });

  test('lose no half hour on the day the clocks go back', () => {
    const schedule = { cron: '*/30 * * * *', timezone: 'Europe/Berlin' };
    expect(countWakes(schedule, at('2026-10-25T00:00:00Z'), at('2026-10-25T03:00:00Z'), undefined, 100)).toBe(6);
  });

  test('answer the same whatever was asked before', () => {
    const schedule = { cron: '5 4 * * *' };
    const late = nextWakeAt(schedule, at('2026-06-02T00:00:00Z'), undefined);
    expect(iso(nextWakeAt(schedule, at('2026-06-01T00:00:00Z'), undefined))).toBe('2026-06-01T04:05:00.000Z');
    expect(nextWakeAt(schedule, at('2026-06-02T00:00:00Z'), undefined)).toBe(late);
  });

  test.each(['* * *', 'at noon', '61 * * * *', '0 0 30 2 *'])('%s is refused by name', (cron) => {
    expect(() => assertWakeSchedule({ cron }, at('2026-01-01T00:00:00Z'))).toThrow(/wake\.cron/);
  });

  test('a zone that does not exist is refused', () => {
    expect(() => assertWakeSchedule({ cron: '* * * * *', timezone: 'Mars/Olympus' }, 0)).toThrow(/wake/);
  });
});

describe('interval schedules', () => {
  test('count from the last contact', () => {
    expect(nextWakeAt({ everySeconds: 60 }, 100_000, 90_000)).toBe(150_000);
    expect(nextWakeAt({ everySeconds: 60 }, 150_000, 90_000)).toBe(210_000);
  });

  test('count from now for a device never seen', () => {
    expect(nthWakeAt({ everySeconds: 10 }, 3, 5_000, undefined)).toBe(35_000);
  });
});

describe('presence', () => {
  const hourly = { id: 'd', wake: { cron: '0 * * * *' }, graceSeconds: 60, limits: {} };
  const contact = at('2026-05-01T10:00:20Z');
  const seen = { sessions: 0, parked: 0, lastContactAt: contact };

  test.each([
    ['10:30:00', 'asleep', 0],
    ['11:00:59', 'asleep', 0],
    ['11:01:00', 'late', 1],
    ['12:01:00', 'missed', 2],
    ['13:01:00', 'missed', 3],
    ['14:01:00', 'lost', 4],
  ])('a sleeper last heard at 10:00:20 is, at %s, %s', (time, state, missedWakes) => {
    expect(presenceOf(hourly, seen, at(`2026-05-01T${time}Z`))).toMatchObject({ state, missedWakes });
  });

  test('tells when it will change if nothing is heard', () => {
    expect(iso(presenceOf(hourly, seen, contact).changesAt)).toBe('2026-05-01T11:01:00.000Z');
  });

  test('a contact a little before its wake was that wake', () => {
    const early = { ...seen, lastContactAt: at('2026-05-01T10:59:30Z') };
    expect(presenceOf(hourly, early, at('2026-05-01T11:30:00Z')).state).toBe('asleep');
    expect(presenceOf(hourly, early, at('2026-05-01T12:02:00Z')).state).toBe('late');
  });

  test('a session counts before anything else but a withdrawn credential', () => {
    expect(presenceOf(hourly, { ...seen, sessions: 1 }, at('2026-05-02T00:00:00Z')).state).toBe('online');
    expect(presenceOf(hourly, { ...seen, parked: 1 }, contact).state).toBe('waiting');
    expect(presenceOf(hourly, { ...seen, sessions: 1, revoked: true }, contact).state).toBe('revoked');
    expect(presenceOf(hourly, { sessions: 0, parked: 0 }, contact).state).toBe('never');
  });

  test('without a schedule, silence beyond the limit is loss', () => {
    const mains = { id: 'd', graceSeconds: 60, limits: { silentSeconds: 100 } };
    expect(presenceOf(mains, seen, contact + 99_999).state).toBe('asleep');
    expect(presenceOf(mains, seen, contact + 100_000).state).toBe('lost');
  });
});

describe('forecast', () => {
  const now = at('2026-05-01T10:10:00Z');
  const command = { expiresAt: at('2026-05-01T13:30:00Z') } as Command;
  const device = { id: 'd', wake: { cron: '0 * * * *' }, graceSeconds: 60 };

  test('tells a sleeper’s next wake and the wakes left', () => {
    expect(forecast(command, device, { reachable: false }, now)).toEqual({
      nextWakeAt: at('2026-05-01T11:00:00Z'),
      expectedAt: at('2026-05-01T11:00:00Z'),
      wakesBeforeExpiry: 3,
    });
  });

  test('counts from notBefore', () => {
    const later = { ...command, notBefore: at('2026-05-01T12:30:00Z') };
    expect(forecast(later, device, { reachable: false }, now)).toMatchObject({
      expectedAt: at('2026-05-01T13:00:00Z'),
      wakesBeforeExpiry: 1,
    });
  });

  test('expects it at once where the device is reachable, and says nothing where nothing is known', () => {
    expect(forecast(command, { id: 'd', graceSeconds: 60 }, { reachable: true }, now)).toEqual({ expectedAt: now });
    expect(forecast(command, { id: 'd', graceSeconds: 60 }, { reachable: false }, now)).toEqual({});
  });
});
