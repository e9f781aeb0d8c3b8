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

  // Berlin and New York change by an hour, Lord Howe by half of one, in the other half of the year.
  test.each<[string, string, string, string, string[]]>([
    ['half past two, which is skipped', '30 2 * * *', 'Europe/Berlin', '2026-03-28T00:00Z', ['28T01:30', '29T01:00', '30T00:30']],
    [
      'half past two, which comes twice',
      '30 2 * * *',
      'Europe/Berlin',
      '2026-10-24T00:00Z',
      ['24T00:30', '25T00:30', '26T01:30'],
    ],
    [
      'half past two, which is skipped',
      '30 2 * * *',
      'America/New_York',
      '2026-03-07T00:00Z',
      ['07T07:30', '08T07:00', '09T06:30'],
    ],
    [
      'half past one, which comes twice',
      '30 1 * * *',
      'America/New_York',
      '2026-10-31T00:00Z',
      ['31T05:30', '01T05:30', '02T06:30'],
    ],
    [
      'a quarter past two, which is skipped',
      '15 2 * * *',
      'Australia/Lord_Howe',
      '2026-10-02T00:00Z',
      ['02T15:45', '03T15:30', '04T15:15'],
    ],
    [
      'a quarter to two, which comes twice',
      '45 1 * * *',
      'Australia/Lord_Howe',
      '2026-04-03T00:00Z',
      ['03T14:45', '04T14:45', '05T15:15'],
    ],
    [
      'every two hours over the skipped one',
      '0 */2 * * *',
      'Europe/Berlin',
      '2026-03-28T22:30Z',
      ['28T23:00', '29T02:00', '29T04:00'],
    ],
    ['midnight, which is skipped', '0 0 * * *', 'America/Santiago', '2026-09-05T00:00Z', ['05T04:00', '06T04:00', '07T03:00']],
  ])('name %s once a day (%s, %s)', (_, cron, timezone, from, days) => {
    let time: number | undefined = at(from);
    const named = days.map(() => {
      time = nextWakeAt({ cron, timezone }, time ?? 0, undefined);
      return iso(time)?.slice(8, 16);
    });
    expect(named).toEqual(days);
  });

  test.each([
    ['Europe/Berlin', '2026-03-29', '2026-10-25'],
    ['America/New_York', '2026-03-08', '2026-11-01'],
    ['Australia/Lord_Howe', '2026-10-03', '2026-04-04'],
    ['Australia/Lord_Howe', '2026-10-04', '2026-04-05'],
  ])('every quarter and every half hour come without a gap or a double in %s on %s and %s', (timezone, ...days) => {
    for (const day of days) {
      for (const minutes of [15, 30]) {
        const schedule = { cron: `*/${minutes} * * * *`, timezone };
        for (let time = at(`${day}T00:00Z`); time < at(`${day}T23:59Z`); time += minutes * 60_000) {
          expect(iso(nextWakeAt(schedule, time, undefined))).toBe(iso(time + minutes * 60_000));
        }
      }
    }
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
    expect(() => assertWakeSchedule({ cron: '* * * * *', timezone: 'Mars/Olympus' }, 0)).toThrow(
      /^wake\.timezone is no time zone/,
    );
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

  const promised = { reachable: false, lastContactAt: at('2026-05-01T10:00:00Z'), promisedWakeAt: at('2026-05-01T11:20:00Z') };

  test('goes by what the device was promised, and from there on by its slot', () => {
    const slotted = { ...device, wake: { cron: '0 * * * *', slackSeconds: 1_800 } };
    const told = forecast(command, slotted, promised, now);
    expect(told).toMatchObject({ nextWakeAt: promised.promisedWakeAt, expectedAt: promised.promisedWakeAt });
    const { expectedAt = 0 } = forecast({ ...command, notBefore: promised.promisedWakeAt }, slotted, promised, now);
    expect(expectedAt).toBeGreaterThanOrEqual(at('2026-05-01T12:00:00Z'));
    expect(expectedAt).toBeLessThan(at('2026-05-01T12:30:00Z'));
  });

  test('goes by the schedule for a device that keeps to it, whatever it is told', () => {
    expect(forecast(command, device, { ...promised, ownWakes: 2 }, now).expectedAt).toBe(at('2026-05-01T11:00:00Z'));
  });

  test('of a command that is handed over and not confirmed tells when that is done again', () => {
    const sent = { ...command, state: 'sent', leaseUntil: at('2026-05-01T11:30:00Z') } as Command;
    expect(forecast(sent, device, { reachable: false }, now)).toMatchObject({
      nextWakeAt: at('2026-05-01T11:00:00Z'),
      expectedAt: at('2026-05-01T12:00:00Z'),
      wakesBeforeExpiry: 2,
    });
  });

  test('counts no wake at the very time at which the command expires', () => {
    const short = { ...command, expiresAt: at('2026-05-01T11:00:00Z') };
    expect(forecast(short, device, { reachable: false }, now).wakesBeforeExpiry).toBe(0);
  });
});
