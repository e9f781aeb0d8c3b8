import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  AGGREGATES,
  type History,
  type Point,
  type RefusedLine,
  type WindowPoint,
  type WindowsQuery,
} from '../broker/store/history.ts';
import { commandEventLine, commandLine, telemetryLine } from '../broker/store/line-protocol.ts';
import type { Command } from '../devices/command.ts';
import type { MetricValue } from '../devices/telemetry.ts';
import { uuidV7Source } from '../devices/uuid-v7.ts';

/** What History promises, for every adapter. `open` opens the same store each time. */
export type HistoryHarness = { open(): Promise<History> };

/** A Tuesday noon. */
const T = 1_700_000_000_000n * 1_000_000n;
const MS = 1_000_000n;
const DAY_MS = 86_400_000;
const WEEK = 7n * BigInt(DAY_MS) * MS;
const ALWAYS = { fromNs: -(2n ** 63n), toNs: 2n ** 63n };

export async function append(history: History, ...lines: string[]): Promise<RefusedLine[]> {
  return history.append(Buffer.from(lines.map((line) => `${line}\n`).join('')));
}

const newId = uuidV7Source({ now: () => 1_700_000_000_000 });

export function commandOf(deviceId: string, changes: Partial<Command> = {}): Command {
  return {
    id: newId(),
    deviceId,
    name: 'reboot',
    priority: 'normal',
    confirm: 'result',
    reportTimeoutSeconds: 300,
    maxAttempts: 10,
    queuedAt: 1_700_000_000_000,
    historyNs: String(T),
    state: 'queued',
    attempts: 0,
    wakes: 0,
    ...changes,
  };
}

export function historyContract(name: string, harness: HistoryHarness): void {
  let history: History;

  beforeAll(async () => {
    history = await harness.open();
  });
  afterAll(() => history.close());

  /** Each test has a device of its own. */
  const newDevice = (): string => `d-${randomUUID()}`;

  async function put(device: string, timeNs: bigint, values: Record<string, MetricValue>, givenTs?: number): Promise<void> {
    expect(await append(history, telemetryLine(device, values, String(timeNs), givenTs))).toEqual([]);
  }
  const readings = (
    deviceId: string,
    metric: string,
    changes: Partial<{ fromNs: bigint; toNs: bigint; limit: number }> = {},
  ): Promise<Point[]> => history.readings({ deviceId, metric, ...ALWAYS, limit: 10_000, ...changes });
  const valuesOf = async (deviceId: string, metric: string): Promise<MetricValue[]> =>
    (await readings(deviceId, metric)).map((point) => point.value);
  const windows = (deviceId: string, metric: string, changes: Partial<WindowsQuery> = {}): Promise<WindowPoint[]> =>
    history.windows({ deviceId, metric, ...ALWAYS, aggregates: AGGREGATES, limit: 1_000, ...changes });

  describe(`${name}: readings`, () => {
    test('the same rows again are the same readings', async () => {
      const device = newDevice();
      const lines = [telemetryLine(device, { x: 1 }, String(T)), telemetryLine(device, { x: 2 }, String(T + 1n))];
      for (let i = 0; i < 3; i += 1) expect(await append(history, ...lines)).toEqual([]);
      expect(await readings(device, 'x')).toEqual([
        { timeNs: T, value: 1 },
        { timeNs: T + 1n, value: 2 },
      ]);
    });

    test('rows of one time merge, and the last value wins, from batch to batch and within one', async () => {
      const device = newDevice();
      await put(device, T, { x: 1, y: 1 });
      await append(
        history,
        telemetryLine(device, { x: 2, z: 1 }, String(T)),
        telemetryLine(device, { x: 3 }, String(T)),
        telemetryLine(device, { z: 2 }, String(T)),
      );
      expect([await valuesOf(device, 'x'), await valuesOf(device, 'y'), await valuesOf(device, 'z')]).toEqual([[3], [1], [2]]);
    });

    test('two readings in one millisecond are both kept, to the nanosecond', async () => {
      const device = newDevice();
      const times = [T, T + 1n, T + 999_999n, T + MS];
      await append(history, ...times.map((time, i) => telemetryLine(device, { x: i }, String(time))));
      expect((await readings(device, 'x')).map((point) => point.timeNs)).toEqual(times);
    });

    test('strings come back byte for byte', async () => {
      const device = newDevice();
      const nasty = [
        '',
        ' ',
        '"',
        '\\',
        '\\"',
        '"\\',
        '\\\\',
        'ends in \\',
        'a,b=c d',
        "it's",
        '\n',
        'a\nb',
        '\\\n',
        '"\n\\',
        '\r',
        '\r\n',
        '\0',
      ]
        .concat([
          'a\0b',
          '\t',
          '\u2028',
          'é漢😀',
          '\uFFFD',
          '#',
          '\\n',
          'x y="z" 1\ntelemetry,device=a x=1 1',
          'x'.repeat(1_024),
          'true',
          '1',
          '5i',
        ])
        .concat(fc.sample(fc.string({ unit: 'binary' }), { numRuns: 200, seed: 1 }));
      const lines = nasty.map((text, i) => telemetryLine(device, { text, i }, String(T + BigInt(i))));
      expect(await append(history, ...lines)).toEqual([]);
      expect(await valuesOf(device, 'text')).toEqual(nasty);
      expect((await valuesOf(device, 'i')).length).toBe(nasty.length);
    });

    test('numbers and booleans come back as they are', async () => {
      const device = newDevice();
      const numbers = [
        0,
        1,
        -1,
        0.1,
        1e21,
        1e-7,
        -1.5e300,
        5e-324,
        Number.MAX_VALUE,
        Number.MAX_SAFE_INTEGER,
        Number.MIN_SAFE_INTEGER,
        1 / 3,
      ];
      await append(history, ...numbers.map((x, i) => telemetryLine(device, { x, even: i % 2 === 0 }, String(T + BigInt(i)))));
      expect(await valuesOf(device, 'x')).toEqual(numbers);
      expect(await valuesOf(device, 'even')).toEqual(numbers.map((_, i) => i % 2 === 0));
    });

    test('metrics may be called time, device, name, or anything else that is allowed', async () => {
      const device = newDevice();
      const metrics = ['time', 'device', 'name', 'a', 'a.b', 'a-b', 'a_b', '_', 'A', 'select', 'mean', 'x'.repeat(64)];
      const values = Object.fromEntries(metrics.map((metric, i) => [metric, i]));
      await put(device, T, values);
      for (const [i, metric] of metrics.entries()) expect(await readings(device, metric)).toEqual([{ timeNs: T, value: i }]);
      expect([...(await history.latest(device)).keys()].toSorted()).toEqual(metrics.toSorted());
    });

    test('times may be the epoch, before it, and at the far ends', async () => {
      const device = newDevice();
      const times = [-(2n ** 63n) + 2n, -WEEK, -2n, -1n, 0n, 1n, 999_999_999n, 10n ** 18n, 2n ** 63n - 2n];
      await append(history, ...times.toReversed().map((time) => telemetryLine(device, { x: Number(time) }, String(time))));
      expect((await readings(device, 'x')).map((point) => point.timeNs)).toEqual(times);
      expect((await readings(device, 'x', { fromNs: -2n, toNs: 1n })).map((point) => point.timeNs)).toEqual([-2n, -1n, 0n]);
      expect((await history.latest(device)).get('x')?.timeNs).toBe(times.at(-1));
    });

    test('a reading whose time was replaced tells the one it was given', async () => {
      const device = newDevice();
      await put(device, T, { x: 1 });
      await put(device, T + 1n, { x: 2, y: 2 }, 42);
      await put(device, T + 2n, { y: 3 }, -7);
      await put(device, T + 3n, { x: 4 });
      expect(await readings(device, 'x')).toEqual([
        { timeNs: T, value: 1 },
        { timeNs: T + 1n, value: 2, givenTs: 42 },
        { timeNs: T + 3n, value: 4 },
      ]);
      expect(await readings(device, 'y')).toEqual([
        { timeNs: T + 1n, value: 2, givenTs: 42 },
        { timeNs: T + 2n, value: 3, givenTs: -7 },
      ]);
      const latest = await history.latest(device);
      expect(latest.get('y')).toEqual({ timeNs: T + 2n, value: 3, givenTs: -7 });
      expect(latest.get('x')).toEqual({ timeNs: T + 3n, value: 4 });
    });

    test('a range has its start and not its end', async () => {
      const device = newDevice();
      await append(history, ...[0n, 1n, 2n, 3n].map((i) => telemetryLine(device, { x: Number(i) }, String(T + i))));
      expect((await readings(device, 'x', { fromNs: T + 1n, toNs: T + 3n })).map((point) => point.value)).toEqual([1, 2]);
      expect(await readings(device, 'x', { fromNs: T + 1n, toNs: T + 1n })).toEqual([]);
      expect(await readings(device, 'x', { fromNs: T + 3n, toNs: T })).toEqual([]);
    });

    test('pages follow each other by the last time', async () => {
      const device = newDevice();
      const count = 2_500;
      const lines = Array.from({ length: count }, (_, i) =>
        telemetryLine(device, { x: i, other: 'o' }, String(T + BigInt(i) * 1_000n)),
      );
      await append(history, ...lines);
      const values: MetricValue[] = [];
      let fromNs = ALWAYS.fromNs;
      for (;;) {
        const page = await readings(device, 'x', { fromNs, limit: 999 });
        values.push(...page.map((point) => point.value));
        const last = page.at(-1);
        if (last === undefined || page.length < 999) break;
        fromNs = last.timeNs + 1n;
      }
      expect(values).toEqual(Array.from({ length: count }, (_, i) => i));
    });

    test('devices and metrics are kept apart, also those whose names begin alike', async () => {
      const device = newDevice();
      for (const [i, id] of [device, `${device}.a`, `${device}-a`, `${device}a`].entries())
        await put(id, T, { a: i, 'a.b': 10 + i });
      expect([await valuesOf(device, 'a'), await valuesOf(device, 'a.b'), await valuesOf(`${device}.a`, 'a')]).toEqual([
        [0],
        [10],
        [1],
      ]);
    });

    test('of what is not there, there is nothing', async () => {
      const device = newDevice();
      await put(device, T, { x: 1 });
      for (const [id, metric] of [
        [device, 'y'],
        [newDevice(), 'x'],
        ["' OR 1=1 --", 'x'],
        [device, 'x" FROM telemetry; --'],
        [device, '$givenTs'],
      ] as const) {
        expect(await readings(id, metric)).toEqual([]);
        expect(await windows(id, metric)).toEqual([]);
      }
      expect(await history.latest(newDevice())).toEqual(new Map());
      expect(await readings(device, 'x', { limit: 0 })).toEqual([]);
    });
  });

  describe(`${name}: windows`, () => {
    test('start at multiples of their length and give each aggregate', async () => {
      const device = newDevice();
      const start = T - (T % (60_000n * MS));
      const readingsGiven: [bigint, number][] = [
        [0n, 4],
        [59_999n, 1],
        [60_000n, 10],
        [240_000n, -2],
        [241_000n, -4.5],
      ];
      await append(history, ...readingsGiven.map(([ms, x]) => telemetryLine(device, { x }, String(start + ms * MS))));
      expect(await windows(device, 'x', { windowMs: 60_000 })).toEqual([
        { timeNs: start, mean: 2.5, min: 1, max: 4, count: 2, last: 1 },
        { timeNs: start + 60_000n * MS, mean: 10, min: 10, max: 10, count: 1, last: 10 },
        { timeNs: start + 240_000n * MS, mean: -3.25, min: -4.5, max: -2, count: 2, last: -4.5 },
      ]);
      expect(await windows(device, 'x', { windowMs: 60_000, aggregates: ['max'] })).toEqual([
        { timeNs: start, max: 4 },
        { timeNs: start + 60_000n * MS, max: 10 },
        { timeNs: start + 240_000n * MS, max: -2 },
      ]);
    });

    test('start at multiples of their length before the epoch as well', async () => {
      const device = newDevice();
      await append(
        history,
        ...[-1_500n, -1_000n, -1n, 0n].map((ms) => telemetryLine(device, { x: Number(ms) }, String(ms * MS))),
      );
      const found = await windows(device, 'x', { windowMs: 1_000, aggregates: ['count'], fromNs: -WEEK, toNs: WEEK });
      expect(found).toEqual([
        { timeNs: -2_000n * MS, count: 1 },
        { timeNs: -1_000n * MS, count: 2 },
        { timeNs: 0n, count: 1 },
      ]);
    });

    test('hold only what the range holds, and keep their place', async () => {
      const device = newDevice();
      const start = T - (T % (1_000n * MS));
      await append(
        history,
        ...[0n, 1n, 2n, 3n].map((i) => telemetryLine(device, { x: Number(i) }, String(start + i * 500n * MS))),
      );
      const range = { fromNs: start + 500n * MS, toNs: start + 1_500n * MS };
      expect(await windows(device, 'x', { windowMs: 1_000, ...range, aggregates: ['count', 'last'] })).toEqual([
        { timeNs: start, count: 1, last: 1 },
        { timeNs: start + 1_000n * MS, count: 1, last: 2 },
      ]);
      expect(await windows(device, 'x', { ...range, aggregates: ['count', 'last'] })).toEqual([
        { timeNs: range.fromNs, count: 2, last: 2 },
      ]);
    });

    test('follow each other in pages', async () => {
      const device = newDevice();
      const start = T - (T % (1_000n * MS));
      const lines = Array.from({ length: 50 }, (_, i) => telemetryLine(device, { x: i }, String(start + BigInt(i) * 500n * MS)));
      await append(history, ...lines);
      const first = await windows(device, 'x', { windowMs: 1_000, limit: 20, aggregates: ['last'] });
      expect(first.map((point) => point.last)).toEqual(Array.from({ length: 20 }, (_, i) => 2 * i + 1));
      const rest = await windows(device, 'x', { windowMs: 1_000, limit: 20, aggregates: ['last'], fromNs: start + 20_000n * MS });
      expect(rest.map((point) => point.last)).toEqual([41, 43, 45, 47, 49]);
    });

    test('over the whole range agree with the values to 1e-9', async () => {
      const device = newDevice();
      const values = Array.from({ length: 7_267 }, (_, i) => 70 + 10 * Math.sin(i / 24) + ((i * 7_919) % 1_000) / 1_003);
      const lines = values.map((x, i) => telemetryLine(device, { x }, String(T + BigInt(i) * 3_600_000n * MS)));
      await append(history, ...lines);
      const [whole, ...others] = await windows(device, 'x', { fromNs: T });
      expect(others).toEqual([]);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      expect(whole).toMatchObject({
        timeNs: T,
        count: values.length,
        min: Math.min(...values),
        max: Math.max(...values),
        last: values.at(-1),
      });
      expect(Math.abs(Number(whole?.mean) - mean)).toBeLessThan(mean * 1e-9);
    });

    test('of strings and booleans have count and last alone', async () => {
      const device = newDevice();
      await put(device, T, { mode: 'eco', on: true });
      await put(device, T + 1n, { mode: 'boost', on: false });
      const none = { mean: null, min: null, max: null };
      expect(await windows(device, 'mode', { fromNs: T })).toEqual([{ timeNs: T, ...none, count: 2, last: 'boost' }]);
      expect(await windows(device, 'on', { fromNs: T })).toEqual([{ timeNs: T, ...none, count: 2, last: false }]);
      expect(await windows(device, 'mode', { fromNs: T, aggregates: ['mean'] })).toEqual([{ timeNs: T, mean: null }]);
    });

    test('have no mean where it is beyond the largest number, and everything else', async () => {
      const device = newDevice();
      await put(device, T, { x: Number.MAX_VALUE });
      await put(device, T + 1n, { x: Number.MAX_VALUE });
      const max = Number.MAX_VALUE;
      expect(await windows(device, 'x', { fromNs: T })).toEqual([{ timeNs: T, mean: null, min: max, max, count: 2, last: max }]);
    });
  });

  describe(`${name}: values of another type from one week to the next`, () => {
    // A metric of this test alone: in InfluxDB a field has one type a week for all devices.
    test('are all readings, counted, and the newest is the last', async () => {
      const device = newDevice();
      const values: MetricValue[] = [1, 2, 'three', true, 'five', 6];
      for (const [i, x] of values.entries()) await put(device, T + BigInt(i) * 2n * WEEK, { varied: x });
      expect(await valuesOf(device, 'varied')).toEqual(values);
      expect((await readings(device, 'varied', { limit: 3, fromNs: T + 1n })).map((point) => point.value)).toEqual([
        2,
        'three',
        true,
      ]);
      expect(await windows(device, 'varied', { fromNs: T })).toEqual([{ timeNs: T, mean: 3, min: 1, max: 6, count: 6, last: 6 }]);
      expect(await windows(device, 'varied', { fromNs: T, toNs: T + 9n * WEEK, aggregates: ['count', 'last'] })).toEqual([
        { timeNs: T, count: 5, last: 'five' },
      ]);
      const weekly = await windows(device, 'varied', { windowMs: 7 * DAY_MS, aggregates: ['last', 'mean'] });
      expect(weekly.map(({ last, mean }) => [last, mean])).toEqual([
        [1, 1],
        [2, 2],
        ['three', null],
        [true, null],
        ['five', null],
        [6, 6],
      ]);
      expect((await history.latest(device)).get('varied')?.value).toBe(6);
    });
  });

  describe(`${name}: latest`, () => {
    test('has the newest reading of each metric, whenever that was', async () => {
      const device = newDevice();
      await put(device, T + WEEK, { newest1: 'new', newest2: true });
      await put(device, T, { newest1: 'old', newest3: 1 });
      await put(device, T - 50n * WEEK, { newest4: 2 });
      expect(await history.latest(device)).toEqual(
        new Map<string, Point>([
          ['newest1', { timeNs: T + WEEK, value: 'new' }],
          ['newest2', { timeNs: T + WEEK, value: true }],
          ['newest3', { timeNs: T, value: 1 }],
          ['newest4', { timeNs: T - 50n * WEEK, value: 2 }],
        ]),
      );
    });
  });

  describe(`${name}: commands`, () => {
    const list = (changes: Partial<Parameters<History['commands']>[0]>): Promise<Command[]> =>
      history.commands({ ...ALWAYS, limit: 1_000, ...changes });

    test('come back with all that they carry', async () => {
      const device = newDevice();
      const bare = commandOf(device);
      const full = commandOf(device, {
        name: 'set-point',
        historyNs: String(T + 1n),
        params: { celsius: 21.5, note: 'a "b" \\ \n ü', list: [null, true, { deep: [] }], empty: {} },
        priority: 'urgent',
        key: 'set point, "x"',
        confirm: 'delivery',
        notBefore: 1_700_000_000_001,
        expiresAt: 1_700_000_000_002,
        expiresWakes: 3,
        state: 'running',
        attempts: 2,
        wakes: 1,
        transport: 'mqtt',
        sentAt: 1_700_000_000_003,
        deliveredAt: 1_700_000_000_004,
        startedAt: 1_700_000_000_005,
        finishedAt: 1_700_000_000_006,
        progress: 12.5,
        message: 'half \\ way\n"there"',
        result: null,
      });
      const binary = commandOf(device, {
        historyNs: String(T + 2n),
        payload: Buffer.from([0, 255, 10, 34, 92]).toString('base64'),
        contentType: 'application/octet-stream; x="y"',
        state: 'superseded',
        supersededBy: bare.id,
        error: 'a newer one came',
      });
      const late = commandOf(device, { historyNs: String(T + 3n), params: null, state: 'failed', late: true, result: [0, 'no'] });
      const issued = [bare, full, binary, late];
      expect(await append(history, ...issued.map(commandLine))).toEqual([]);
      expect(await list({ deviceId: device })).toEqual(issued.toReversed());
      for (const command of issued) expect(await history.command(command.id)).toEqual(command);
    });

    test('are as they last were', async () => {
      const device = newDevice();
      const queued = commandOf(device, { params: { a: 1 } });
      const sent = { ...queued, state: 'sent', attempts: 1, transport: 'http', sentAt: 1_700_000_000_100 } as const;
      const done = {
        ...sent,
        state: 'succeeded',
        deliveredAt: 1_700_000_000_200,
        finishedAt: 1_700_000_000_300,
        result: { ok: true },
      } as const;
      await append(history, commandLine(queued));
      await append(history, commandLine(sent), commandLine(done));
      expect(await list({ deviceId: device })).toEqual([done]);
      expect(await list({ deviceId: device, states: ['queued', 'sent'] })).toEqual([]);
      expect(await history.command(queued.id)).toEqual(done);
    });

    test('keep the fields that a later row of theirs does not have', async () => {
      const device = newDevice();
      const command = commandOf(device, { params: { a: 'b "c"' } });
      await append(history, commandLine(command));
      const step = (fields: string): string => `command,device=${device},name=${command.name} ${fields} ${command.historyNs}`;
      await append(history, step('state="sent"'), step('sent_ms=5i'));
      expect(await history.command(command.id)).toEqual({ ...command, state: 'sent', sentAt: 5 });
      expect(await list({ deviceId: device, states: ['sent'] })).toEqual([{ ...command, state: 'sent', sentAt: 5 }]);
    });

    test("lose what the device's late word took back", async () => {
      const device = newDevice();
      const expired = commandOf(device, { state: 'expired', error: 'not delivered in time', supersededBy: newId() });
      const { error: _, supersededBy: __, ...rest } = expired;
      const told = { ...rest, state: 'succeeded', late: true, deliveredAt: 1_700_000_000_400 } as const;
      await append(history, commandLine(expired));
      expect(await list({ deviceId: device })).toEqual([expired]);
      await append(history, commandLine(told));
      expect(await list({ deviceId: device })).toEqual([told]);
    });

    test('are found by device, state and time, newest first', async () => {
      const [a, b] = [newDevice(), newDevice()];
      const at = (deviceId: string, i: number, state: Command['state']): Command =>
        commandOf(deviceId, { state, historyNs: String(-WEEK + BigInt(i)), name: `n${i % 3}` });
      const issued = [at(a, 0, 'queued'), at(b, 1, 'succeeded'), at(a, 2, 'failed'), at(b, 3, 'queued'), at(a, 4, 'succeeded')];
      await append(history, ...issued.map(commandLine));
      const idsOf = async (query: Parameters<typeof list>[0]): Promise<number[]> =>
        (await list(query)).map(({ id }) => issued.findIndex((command) => command.id === id));
      const range = { fromNs: -WEEK, toNs: -WEEK + 5n };
      expect(await idsOf(range)).toEqual([4, 3, 2, 1, 0]);
      expect(await idsOf({ ...range, limit: 2 })).toEqual([4, 3]);
      expect(await idsOf({ deviceId: a })).toEqual([4, 2, 0]);
      expect(await idsOf({ deviceId: a, states: ['queued', 'failed'] })).toEqual([2, 0]);
      expect(await idsOf({ deviceId: a, states: ['queued', 'failed'], limit: 1 })).toEqual([2]);
      expect(await idsOf({ ...range, states: ['succeeded'] })).toEqual([4, 1]);
      expect(await idsOf({ deviceId: b, fromNs: -WEEK + 1n, toNs: -WEEK + 3n })).toEqual([1]);
      expect(await idsOf({ deviceId: a, states: [] })).toEqual([]);
      expect(await idsOf({ deviceId: newDevice() })).toEqual([]);
    });

    test('are found among thousands, page by page', async () => {
      const device = newDevice();
      const issued = Array.from({ length: 2_345 }, (_, i) =>
        commandOf(device, { historyNs: String(T + BigInt(i)), params: { i }, state: i % 5 === 0 ? 'failed' : 'succeeded' }),
      );
      expect(await append(history, ...issued.map(commandLine))).toEqual([]);
      const found: Command[] = [];
      for (let toNs = ALWAYS.toNs; ; toNs = BigInt(found.at(-1)?.historyNs ?? 0)) {
        const page = await list({ deviceId: device, toNs, limit: 1_000 });
        found.push(...page);
        if (page.length < 1_000) break;
      }
      expect(found).toEqual(issued.toReversed());
      expect((await list({ deviceId: device, states: ['failed'] })).length).toBe(469);
      expect(await history.command(issued[1_234]?.id ?? '')).toEqual(issued[1_234]);
    });

    test('of all devices are found without one, also where many have one time', async () => {
      const at = T + 7n * WEEK;
      const ids = Array.from({ length: 20 }, () => newDevice());
      await append(history, ...ids.map((id) => commandLine(commandOf(id, { historyNs: String(at) }))));
      const found = await history.commands({ states: ['queued'], fromNs: at, toNs: at + 1n, limit: 100 });
      expect(found.map(({ deviceId }) => deviceId).toSorted()).toEqual(ids.toSorted());
    });

    test('and readings tell which devices there are, in order, up to the limit', async () => {
      const [commanded, read] = [newDevice(), newDevice()];
      await append(history, commandLine(commandOf(commanded)), telemetryLine(read, { x: 1 }, String(T)));
      const devices = await history.devices(10_000);
      expect(devices).toEqual(expect.arrayContaining([commanded, read]));
      expect(devices).toEqual([...new Set(devices)].toSorted());
      expect(await history.devices(2)).toHaveLength(2);
    });

    test('that never were are undefined', async () => {
      expect(await history.command(newId())).toBeUndefined();
      expect(await history.command('not an id')).toBeUndefined();
      expect(await history.command("' OR 1=1 --")).toBeUndefined();
    });

    test('have their events stored beside them', async () => {
      const device = newDevice();
      const command = commandOf(device);
      const lines = [commandLine(command), commandEventLine(command, { from: 'none', timeNs: String(T) })];
      const sent = { ...command, state: 'sent', attempts: 1 } as const;
      lines.push(commandLine(sent), commandEventLine(sent, { from: 'queued', transport: 'mqtt', timeNs: String(T + 1n) }));
      expect(await append(history, ...lines)).toEqual([]);
      expect(await list({ deviceId: device })).toEqual([sent]);
    });
  });

  describe(`${name}: append`, () => {
    test('refuses rows that cannot be read alone, with a reason, and takes the others', async () => {
      const device = newDevice();
      const good = [telemetryLine(device, { x: 1 }, String(T)), telemetryLine(device, { x: 2, s: 'a\nb' }, String(T + 1n))];
      const bad = [
        `telemetry,device=${device} x= ${T}`,
        `telemetry,device=${device} x=1 noon`,
        `telemetry,device=${device} x=1 99999999999999999999`,
      ];
      const refused = await append(history, bad[0] ?? '', good[0] ?? '', bad[1] ?? '', good[1] ?? '', bad[2] ?? '');
      expect(refused.map((row) => row.line)).toEqual(bad);
      for (const { reason } of refused) expect(reason).not.toBe('');
      expect(await valuesOf(device, 'x')).toEqual([1, 2]);
      expect(await valuesOf(device, 's')).toEqual(['a\nb']);
    });

    test('takes nothing, and 2 MB at once', async () => {
      expect(await history.append(Buffer.alloc(0))).toEqual([]);
      const device = newDevice();
      const text = 'é'.repeat(400);
      const lines = Array.from({ length: 2_400 }, (_, i) => telemetryLine(device, { text, i }, String(T + BigInt(i))));
      expect(await append(history, ...lines)).toEqual([]);
      expect(await windows(device, 'text', { aggregates: ['count', 'last'], fromNs: T })).toEqual([
        { timeNs: T, count: 2_400, last: text },
      ]);
    });

    test('may be called while one is under way', async () => {
      const device = newDevice();
      const command = commandOf(device);
      const lines = (from: number): string[] =>
        Array.from({ length: 500 }, (_, i) => telemetryLine(device, { x: from + i }, String(T + BigInt(from + i))));
      await Promise.all([
        append(history, ...lines(0), commandLine(command)),
        append(history, ...lines(500)),
        append(history, ...lines(1_000)),
      ]);
      expect(await windows(device, 'x', { aggregates: ['count'], fromNs: T })).toEqual([{ timeNs: T, count: 1_500 }]);
    });
  });

  describe(`${name}: opening and closing`, () => {
    test('what was appended is there when opened again; closed twice is closed; a closed one says so', async () => {
      const device = newDevice();
      const command = commandOf(device, { params: ['x'] });
      await put(device, T, { x: 1, s: 'y' });
      await append(history, commandLine(command));
      await history.check();
      await history.close();
      await history.close();
      const unavailable = expect.objectContaining({ code: 'history_unavailable' });
      await expect(append(history, telemetryLine(device, { x: 2 }, String(T)))).rejects.toEqual(unavailable);
      await expect(readings(device, 'x')).rejects.toEqual(unavailable);
      await expect(history.check()).rejects.toEqual(unavailable);
      history = await harness.open();
      await history.check();
      expect(await readings(device, 'x')).toEqual([{ timeNs: T, value: 1 }]);
      expect(await history.command(command.id)).toEqual(command);
    });
  });
}
