import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { LevelHistory } from '../broker/store/level/level-history.ts';
import type { Condition } from '../devices/command.ts';
import { holds, whatWasFound } from '../devices/condition.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { MetricValue } from '../devices/telemetry.ts';
import { eventually } from './api-support.ts';
import { LiveServer, TestClock, type CommandView } from './live-server.ts';

/** What must hold of the latest reading when a command is handed over, whatever the way. */
const START = Date.parse('2026-05-01T10:10:00Z');
const BELOW_80 = { metric: 'level', op: '<', value: 80 };

describe('a condition', () => {
  test.each<[MetricValue, Condition['op'], MetricValue, boolean]>([
    [1, '<', 2, true],
    [2, '<', 2, false],
    [2, '<=', 2, true],
    [2, '=', 2, true],
    [2, '!=', 2, false],
    [2, '>=', 2, true],
    [2, '>', 2, false],
    [3, '>', 2, true],
    [true, '=', true, true],
    [false, '=', true, false],
    ['eco', '=', 'eco', true],
    ['eco', '!=', 'boost', true],
    ['2', '=', 2, false],
    ['2', '!=', 2, true],
    ['1', '<', 2, false],
    [true, '>', 0, false],
  ])('%j %s %j: %s', (had, op, value, is) => {
    expect(holds({ metric: 'm', op, value }, { value: had, at: START }, START)).toBe(is);
  });

  test('never holds without a reading, nor with one older than it may be', () => {
    const condition: Condition = { metric: 'm', op: '=', value: 1, maxAgeSeconds: 60 };
    expect(holds(condition, undefined, START)).toBe(false);
    expect(holds(condition, { value: 1, at: START - 60_000 }, START)).toBe(true);
    expect(holds(condition, { value: 1, at: START - 60_001 }, START)).toBe(false);
  });

  test('says what was found instead', () => {
    const condition: Condition = { metric: 'm', op: '=', value: 'eco', maxAgeSeconds: 60 };
    expect(whatWasFound(condition, undefined, START)).toBe('there is no reading of m');
    expect(whatWasFound(condition, { value: 3, at: START }, START)).toBe('m is 3 (2026-05-01T10:10:00.000Z), not = "eco"');
    expect(whatWasFound(condition, { value: 'eco', at: START - 61_000 }, START)).toMatch(
      /^m is "eco" .*, which is older than 60 s$/,
    );
  });
});

describe('at delivery', () => {
  let clock: TestClock;
  let server: LiveServer;
  let nth = 0;

  beforeAll(async () => {
    clock = new TestClock(START);
    server = await LiveServer.start({}, clock);
  });

  afterEach(() => vi.restoreAllMocks());
  afterAll(() => server.close());

  async function newDevice(): Promise<{ id: string; token: string }> {
    const id = `tank-${(nth += 1)}`;
    return { id, token: await server.createDevice(id) };
  }

  const measured = (token: string, values: Record<string, MetricValue>) =>
    server.request('POST', '/v1/device/telemetry', { credential: token, body: values });

  async function pull(token: string, query = ''): Promise<CommandView[]> {
    const { body } = await server.request<{ commands?: CommandView[] }>('GET', `/v1/device/commands${query}`, {
      credential: token,
    });
    return body.commands ?? [];
  }

  test('a pulled command is handed over while it holds, and is shown with it', async () => {
    const { id, token } = await newDevice();
    await measured(token, { level: 79 });
    const issued = await server.issue(id, { name: 'fill', condition: { ...BELOW_80, maxAgeSeconds: 60 } });
    expect(issued).toMatchObject({ state: 'queued', condition: { ...BELOW_80, maxAgeSeconds: 60 } });
    const [taken] = await eventually(async () => {
      const commands = await pull(token);
      return commands.length > 0 ? commands : undefined;
    });
    expect(taken).toMatchObject({ id: issued.id });
    expect(taken).not.toHaveProperty('condition');
  });

  test.each<[string, Record<string, MetricValue> | undefined, number, RegExp]>([
    ['does not hold', { level: 80 }, 0, /^condition_failed: level is 80 .*, not < 80$/],
    ['has no reading', undefined, 0, /^condition_failed: there is no reading of level$/],
    ['has none that is new enough', { level: 3 }, 61_000, /^condition_failed: level is 3 .*, which is older than 60 s$/],
    ['has one of another kind', { level: 'low' }, 0, /^condition_failed: level is "low" .*, not < 80$/],
  ])('one whose condition %s is cancelled with the reason', async (_, values, laterMs, error) => {
    const { id, token } = await newDevice();
    if (values !== undefined) await measured(token, values);
    const issued = await server.issue(id, { name: 'fill', condition: { ...BELOW_80, maxAgeSeconds: 60 } });
    clock.advance(laterMs);
    const ended = await eventually(async () => {
      expect(await pull(token)).toEqual([]);
      const command = await server.command(issued.id);
      return command.state === 'queued' ? undefined : command;
    });
    expect(ended).toMatchObject({ state: 'cancelled', error: expect.stringMatching(error), attempts: 0 });
  });

  test('over MQTT as over HTTP', async () => {
    const { id, token } = await newDevice();
    await measured(token, { level: 10 });
    const device = await server.connect(id, token);
    await device.subscribe('commands');
    const fails = await server.issue(id, { name: 'drain', condition: { metric: 'level', op: '>', value: 50 } });
    const passes = await server.issue(id, { name: 'fill', condition: BELOW_80 });
    expect(await device.next()).toMatchObject({ body: { id: passes.id } });
    expect(await server.commandIn(fails.id, 'cancelled')).toMatchObject({ error: expect.stringContaining('condition_failed: ') });
    await device.end();
  });

  test('the reading that counts is the latest, of whatever way it came, also the one that came just before', async () => {
    const { id, token } = await newDevice();
    await measured(token, { level: 99 });
    const { id: commandId } = await server.issue(id, { name: 'fill', condition: BELOW_80 });
    await measured(token, { level: 20 });
    await eventually(async () => ((await pull(token))[0]?.id === commandId ? true : undefined));
  });

  test('what is cancelled makes room in the same answer, and what is not reached is not looked at yet', async () => {
    const { id, token } = await newDevice();
    await measured(token, { level: 90 });
    const ready = await server.issue(id, { name: 'ready', condition: { metric: 'level', op: '=', value: 90 } });
    await eventually(async () => ((await pull(token))[0]?.id === ready.id ? true : undefined));
    const first = await server.issue(id, { name: 'fails', priority: 'high', condition: BELOW_80 });
    const second = await server.issue(id, { name: 'goes' });
    const third = await server.issue(id, { name: 'waits', priority: 'low', condition: BELOW_80 });
    expect(await pull(token, '?limit=1')).toMatchObject([{ id: second.id }]);
    expect(await server.command(first.id)).toMatchObject({ state: 'cancelled' });
    expect(await server.command(third.id)).toMatchObject({ state: 'queued', deferral: { reason: 'over_limit' } });
    await measured(token, { level: 5 });
    expect(await pull(token)).toMatchObject([{ id: third.id }]);
    const taken = await server.command(third.id);
    expect(taken).not.toHaveProperty('deferral');
  });

  test('it is looked at each time: one whose hand-over lapsed is cancelled when it holds no more', async () => {
    const { id, token } = await newDevice();
    await measured(token, { level: 10 });
    const { id: commandId } = await server.issue(id, { name: 'fill', condition: BELOW_80 });
    await eventually(async () => ((await pull(token))[0]?.id === commandId ? true : undefined));
    await measured(token, { level: 95 });
    clock.advance(31_000);
    await server.commandIn(commandId, 'queued');
    expect(await pull(token)).toEqual([]);
    expect(await server.command(commandId)).toMatchObject({ state: 'cancelled', attempts: 1 });
  });

  test('after a restart the readings of before it count; while History cannot be asked the command waits, and says why', async () => {
    const { id, token } = await newDevice();
    await measured(token, { level: 10 });
    const { id: commandId } = await server.issue(id, { name: 'fill', condition: BELOW_80 });
    const { id: plainId } = await server.issue(id, { name: 'plain' });
    const away = vi
      .spyOn(LevelHistory.prototype, 'latest')
      .mockImplementation(() => Promise.reject(new DownlinkError('history_unavailable', 'away')));
    await server.restart();
    expect(await pull(token)).toMatchObject([{ id: plainId }]);
    const waiting = await eventually(async () => {
      const command = await server.command(commandId);
      return 'deferral' in command ? command : undefined;
    });
    expect(waiting).toMatchObject({ state: 'queued', deferral: { reason: 'condition_unknown' } });
    expect(await pull(token)).toEqual([]);
    away.mockRestore();
    expect(await pull(token, '?wait=60')).toMatchObject([{ id: commandId }]);
    expect(await server.command(commandId)).not.toHaveProperty('deferral');
  });
});
