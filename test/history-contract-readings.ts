import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Point } from '../broker/store/history.ts';
import { telemetryLine } from '../broker/store/line-protocol.ts';
import type { MetricValue } from '../devices/telemetry.ts';
import { ALWAYS, append, DAY_MS, MS, newDevice, OpenHistory, T, WEEK, type HistoryHarness } from './history-fixtures.ts';

/** What History promises of readings, for every adapter. */
export function readingsContract(name: string, harness: HistoryHarness): void {
  describe(`${name}: readings`, () => {
    const store = new OpenHistory(harness);

    describe('readings', () => {
      test('the same rows again are the same readings', async () => {
        const device = newDevice();
        const lines = [telemetryLine(device, { x: 1 }, String(T)), telemetryLine(device, { x: 2 }, String(T + 1n))];
        for (let i = 0; i < 3; i += 1) expect(await append(store.history, ...lines)).toEqual([]);
        expect(await store.readings(device, 'x')).toEqual([
          { timeNs: T, value: 1 },
          { timeNs: T + 1n, value: 2 },
        ]);
      });

      test('rows of one time merge, and the last value wins, from batch to batch and within one', async () => {
        const device = newDevice();
        await store.put(device, T, { x: 1, y: 1 });
        await append(
          store.history,
          telemetryLine(device, { x: 2, z: 1 }, String(T)),
          telemetryLine(device, { x: 3 }, String(T)),
          telemetryLine(device, { z: 2 }, String(T)),
        );
        expect([await store.valuesOf(device, 'x'), await store.valuesOf(device, 'y'), await store.valuesOf(device, 'z')]).toEqual(
          [[3], [1], [2]],
        );
      });

      test('two readings in one millisecond are both kept, to the nanosecond', async () => {
        const device = newDevice();
        const times = [T, T + 1n, T + 999_999n, T + MS];
        await append(store.history, ...times.map((time, i) => telemetryLine(device, { x: i }, String(time))));
        expect((await store.readings(device, 'x')).map((point) => point.timeNs)).toEqual(times);
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
        expect(await append(store.history, ...lines)).toEqual([]);
        expect(await store.valuesOf(device, 'text')).toEqual(nasty);
        expect((await store.valuesOf(device, 'i')).length).toBe(nasty.length);
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
        await append(
          store.history,
          ...numbers.map((x, i) => telemetryLine(device, { x, even: i % 2 === 0 }, String(T + BigInt(i)))),
        );
        expect(await store.valuesOf(device, 'x')).toEqual(numbers);
        expect(await store.valuesOf(device, 'even')).toEqual(numbers.map((_, i) => i % 2 === 0));
      });

      test('metrics may be called time, device, name, or anything else that is allowed', async () => {
        const device = newDevice();
        const metrics = ['time', 'device', 'name', 'a', 'a.b', 'a-b', 'a_b', '_', 'A', 'select', 'mean', 'x'.repeat(64)];
        const values = Object.fromEntries(metrics.map((metric, i) => [metric, i]));
        await store.put(device, T, values);
        for (const [i, metric] of metrics.entries())
          expect(await store.readings(device, metric)).toEqual([{ timeNs: T, value: i }]);
        expect([...(await store.history.latest(device)).keys()].toSorted()).toEqual(metrics.toSorted());
      });

      test('times may be the epoch, before it, and at the far ends', async () => {
        const device = newDevice();
        const times = [-(2n ** 63n) + 2n, -WEEK, -2n, -1n, 0n, 1n, 999_999_999n, 10n ** 18n, 2n ** 63n - 2n];
        await append(
          store.history,
          ...times.toReversed().map((time) => telemetryLine(device, { x: Number(time) }, String(time))),
        );
        expect((await store.readings(device, 'x')).map((point) => point.timeNs)).toEqual(times);
        expect((await store.readings(device, 'x', { fromNs: -2n, toNs: 1n })).map((point) => point.timeNs)).toEqual([
          -2n,
          -1n,
          0n,
        ]);
        expect((await store.history.latest(device)).get('x')?.timeNs).toBe(times.at(-1));
      });

      test('a reading whose time was replaced tells the one it was given', async () => {
        const device = newDevice();
        await store.put(device, T, { x: 1 });
        await store.put(device, T + 1n, { x: 2, y: 2 }, 42);
        await store.put(device, T + 2n, { y: 3 }, -7);
        await store.put(device, T + 3n, { x: 4 });
        expect(await store.readings(device, 'x')).toEqual([
          { timeNs: T, value: 1 },
          { timeNs: T + 1n, value: 2, givenTs: 42 },
          { timeNs: T + 3n, value: 4 },
        ]);
        expect(await store.readings(device, 'y')).toEqual([
          { timeNs: T + 1n, value: 2, givenTs: 42 },
          { timeNs: T + 2n, value: 3, givenTs: -7 },
        ]);
        const latest = await store.history.latest(device);
        expect(latest.get('y')).toEqual({ timeNs: T + 2n, value: 3, givenTs: -7 });
        expect(latest.get('x')).toEqual({ timeNs: T + 3n, value: 4 });
      });

      test('a range has its start and not its end', async () => {
        const device = newDevice();
        await append(store.history, ...[0n, 1n, 2n, 3n].map((i) => telemetryLine(device, { x: Number(i) }, String(T + i))));
        expect((await store.readings(device, 'x', { fromNs: T + 1n, toNs: T + 3n })).map((point) => point.value)).toEqual([1, 2]);
        expect(await store.readings(device, 'x', { fromNs: T + 1n, toNs: T + 1n })).toEqual([]);
        expect(await store.readings(device, 'x', { fromNs: T + 3n, toNs: T })).toEqual([]);
      });

      test('pages follow each other by the last time', async () => {
        const device = newDevice();
        const count = 2_500;
        const lines = Array.from({ length: count }, (_, i) =>
          telemetryLine(device, { x: i, other: 'o' }, String(T + BigInt(i) * 1_000n)),
        );
        await append(store.history, ...lines);
        const values: MetricValue[] = [];
        let fromNs = ALWAYS.fromNs;
        for (;;) {
          const page = await store.readings(device, 'x', { fromNs, limit: 999 });
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
          await store.put(id, T, { a: i, 'a.b': 10 + i });
        expect([
          await store.valuesOf(device, 'a'),
          await store.valuesOf(device, 'a.b'),
          await store.valuesOf(`${device}.a`, 'a'),
        ]).toEqual([[0], [10], [1]]);
      });

      test('of what is not there, there is nothing', async () => {
        const device = newDevice();
        await store.put(device, T, { x: 1 });
        for (const [id, metric] of [
          [device, 'y'],
          [newDevice(), 'x'],
          ["' OR 1=1 --", 'x'],
          [device, 'x" FROM telemetry; --'],
          [device, '$givenTs'],
        ] as const) {
          expect(await store.readings(id, metric)).toEqual([]);
          expect(await store.windows(id, metric)).toEqual([]);
        }
        expect(await store.history.latest(newDevice())).toEqual(new Map());
        expect(await store.readings(device, 'x', { limit: 0 })).toEqual([]);
      });
    });

    describe('windows', () => {
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
        await append(store.history, ...readingsGiven.map(([ms, x]) => telemetryLine(device, { x }, String(start + ms * MS))));
        expect(await store.windows(device, 'x', { windowMs: 60_000 })).toEqual([
          { timeNs: start, mean: 2.5, min: 1, max: 4, count: 2, last: 1 },
          { timeNs: start + 60_000n * MS, mean: 10, min: 10, max: 10, count: 1, last: 10 },
          { timeNs: start + 240_000n * MS, mean: -3.25, min: -4.5, max: -2, count: 2, last: -4.5 },
        ]);
        expect(await store.windows(device, 'x', { windowMs: 60_000, aggregates: ['max'] })).toEqual([
          { timeNs: start, max: 4 },
          { timeNs: start + 60_000n * MS, max: 10 },
          { timeNs: start + 240_000n * MS, max: -2 },
        ]);
      });

      test('start at multiples of their length before the epoch as well', async () => {
        const device = newDevice();
        await append(
          store.history,
          ...[-1_500n, -1_000n, -1n, 0n].map((ms) => telemetryLine(device, { x: Number(ms) }, String(ms * MS))),
        );
        const found = await store.windows(device, 'x', { windowMs: 1_000, aggregates: ['count'], fromNs: -WEEK, toNs: WEEK });
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
          store.history,
          ...[0n, 1n, 2n, 3n].map((i) => telemetryLine(device, { x: Number(i) }, String(start + i * 500n * MS))),
        );
        const range = { fromNs: start + 500n * MS, toNs: start + 1_500n * MS };
        expect(await store.windows(device, 'x', { windowMs: 1_000, ...range, aggregates: ['count', 'last'] })).toEqual([
          { timeNs: start, count: 1, last: 1 },
          { timeNs: start + 1_000n * MS, count: 1, last: 2 },
        ]);
        expect(await store.windows(device, 'x', { ...range, aggregates: ['count', 'last'] })).toEqual([
          { timeNs: range.fromNs, count: 2, last: 2 },
        ]);
      });

      test('follow each other in pages', async () => {
        const device = newDevice();
        const start = T - (T % (1_000n * MS));
        const lines = Array.from({ length: 50 }, (_, i) =>
          telemetryLine(device, { x: i }, String(start + BigInt(i) * 500n * MS)),
        );
        await append(store.history, ...lines);
        const first = await store.windows(device, 'x', { windowMs: 1_000, limit: 20, aggregates: ['last'] });
        expect(first.map((point) => point.last)).toEqual(Array.from({ length: 20 }, (_, i) => 2 * i + 1));
        const rest = await store.windows(device, 'x', {
          windowMs: 1_000,
          limit: 20,
          aggregates: ['last'],
          fromNs: start + 20_000n * MS,
        });
        expect(rest.map((point) => point.last)).toEqual([41, 43, 45, 47, 49]);
      });

      test('over the whole range agree with the values to 1e-9', async () => {
        const device = newDevice();
        const values = Array.from({ length: 7_267 }, (_, i) => 70 + 10 * Math.sin(i / 24) + ((i * 7_919) % 1_000) / 1_003);
        const lines = values.map((x, i) => telemetryLine(device, { x }, String(T + BigInt(i) * 3_600_000n * MS)));
        await append(store.history, ...lines);
        const [whole, ...others] = await store.windows(device, 'x', { fromNs: T });
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
        await store.put(device, T, { mode: 'eco', on: true });
        await store.put(device, T + 1n, { mode: 'boost', on: false });
        const none = { mean: null, min: null, max: null };
        expect(await store.windows(device, 'mode', { fromNs: T })).toEqual([{ timeNs: T, ...none, count: 2, last: 'boost' }]);
        expect(await store.windows(device, 'on', { fromNs: T })).toEqual([{ timeNs: T, ...none, count: 2, last: false }]);
        expect(await store.windows(device, 'mode', { fromNs: T, aggregates: ['mean'] })).toEqual([{ timeNs: T, mean: null }]);
      });

      test('have no mean where it is beyond the largest number, and everything else', async () => {
        const device = newDevice();
        await store.put(device, T, { x: Number.MAX_VALUE });
        await store.put(device, T + 1n, { x: Number.MAX_VALUE });
        const max = Number.MAX_VALUE;
        expect(await store.windows(device, 'x', { fromNs: T })).toEqual([
          { timeNs: T, mean: null, min: max, max, count: 2, last: max },
        ]);
      });
    });

    describe('values of another type from one week to the next', () => {
      // A metric of this test alone: in InfluxDB a field has one type a week for all devices.
      test('are all readings, counted, and the newest is the last', async () => {
        const device = newDevice();
        const values: MetricValue[] = [1, 2, 'three', true, 'five', 6];
        for (const [i, x] of values.entries()) await store.put(device, T + BigInt(i) * 2n * WEEK, { varied: x });
        expect(await store.valuesOf(device, 'varied')).toEqual(values);
        expect((await store.readings(device, 'varied', { limit: 3, fromNs: T + 1n })).map((point) => point.value)).toEqual([
          2,
          'three',
          true,
        ]);
        expect(await store.windows(device, 'varied', { fromNs: T })).toEqual([
          { timeNs: T, mean: 3, min: 1, max: 6, count: 6, last: 6 },
        ]);
        expect(await store.windows(device, 'varied', { fromNs: T, toNs: T + 9n * WEEK, aggregates: ['count', 'last'] })).toEqual([
          { timeNs: T, count: 5, last: 'five' },
        ]);
        const weekly = await store.windows(device, 'varied', { windowMs: 7 * DAY_MS, aggregates: ['last', 'mean'] });
        expect(weekly.map(({ last, mean }) => [last, mean])).toEqual([
          [1, 1],
          [2, 2],
          ['three', null],
          [true, null],
          ['five', null],
          [6, 6],
        ]);
        expect((await store.history.latest(device)).get('varied')?.value).toBe(6);
      });
    });

    describe('latest', () => {
      test('has the newest reading of each metric, whenever that was', async () => {
        const device = newDevice();
        await store.put(device, T + WEEK, { newest1: 'new', newest2: true });
        await store.put(device, T, { newest1: 'old', newest3: 1 });
        await store.put(device, T - 50n * WEEK, { newest4: 2 });
        expect(await store.history.latest(device)).toEqual(
          new Map<string, Point>([
            ['newest1', { timeNs: T + WEEK, value: 'new' }],
            ['newest2', { timeNs: T + WEEK, value: true }],
            ['newest3', { timeNs: T, value: 1 }],
            ['newest4', { timeNs: T - 50n * WEEK, value: 2 }],
          ]),
        );
      });
    });
  });
}
