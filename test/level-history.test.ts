import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClassicLevel } from 'classic-level';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { telemetryLine } from '../broker/store/line-protocol.ts';
import { LevelHistory } from '../broker/store/level/level-history.ts';
import { historyContract } from './history-contract.ts';
import { append } from './history-fixtures.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-history-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

historyContract('embedded', { open: () => LevelHistory.open(join(folder, 'contract')) });

describe('embedded: what InfluxDB would not do', () => {
  test('a metric may change its type at any time', async () => {
    const history = await LevelHistory.open(join(folder, 'types'));
    const values = [1, 'two', true, 4];
    const lines = values.map((x, i) => telemetryLine('a', { x }, String(i)));
    expect(await append(history, ...lines)).toEqual([]);
    const range = { deviceId: 'a', metric: 'x', fromNs: 0n, toNs: 10n, limit: 10 };
    expect((await history.readings(range)).map((point) => point.value)).toEqual(values);
    expect(await history.windows({ ...range, aggregates: ['mean', 'count', 'last'] })).toEqual([
      { timeNs: 0n, mean: 2.5, count: 4, last: 4 },
    ]);
    await history.close();
  });

  test('rows of other measurements are refused', async () => {
    const history = await LevelHistory.open(join(folder, 'others'));
    const refused = await append(
      history,
      'cpu,host=a load=1 1',
      'telemetry,device=a x=1 1',
      'telemetry,device=a/b x=1 1',
      'command,device=a id="1" 1',
    );
    expect(refused.map((row) => row.line)).toEqual([
      'cpu,host=a load=1 1',
      'telemetry,device=a/b x=1 1',
      'command,device=a id="1" 1',
    ]);
    await history.close();
  });

  test('sums of many numbers lose nothing', async () => {
    const history = await LevelHistory.open(join(folder, 'sums'));
    const values = [1e16, 1, -1e16, 1, 1, 1];
    await append(history, ...values.map((x, i) => telemetryLine('a', { x }, String(i))));
    const whole = { deviceId: 'a', metric: 'x', fromNs: 0n, toNs: 10n, limit: 1, aggregates: ['mean'] } as const;
    expect(await history.windows(whole)).toEqual([{ timeNs: 0n, mean: 4 / 6 }]);
    await history.close();
  });

  test('readings in any order, repeated and corrected, are what was written last, also after a restart', async () => {
    const path = join(folder, 'model');
    let history = await LevelHistory.open(path);
    const [first, last] = [1_700_000_000_000_000_000n, 1_700_000_060_000_000_000n];
    const time = fc.bigInt(0n, 60n).map((second) => first + second * 1_000_000_000n);
    const row = fc.record({
      time,
      metric: fc.constantFrom('x', 'y', 'xy'),
      value: fc.oneof(fc.integer(), fc.string(), fc.boolean()),
    });
    const rows = fc.array(row, { minLength: 1, maxLength: 30 });
    let nth = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(rows, fc.constant('restart' as const)), { maxLength: 6 }),
        time,
        time,
        async (steps, a, b) => {
          nth += 1;
          const deviceId = `model-${nth}`;
          const wanted = new Map<string, Map<bigint, unknown>>();
          for (const step of steps) {
            if (step === 'restart') {
              await history.close();
              history = await LevelHistory.open(path);
              continue;
            }
            for (const { time: timeNs, metric, value } of step) {
              wanted.set(metric, (wanted.get(metric) ?? new Map<bigint, unknown>()).set(timeNs, value));
            }
            await append(
              history,
              ...step.map(({ time: timeNs, metric, value }) => telemetryLine(deviceId, { [metric]: value }, String(timeNs))),
            );
          }
          const range = { fromNs: a < b ? a : b, toNs: a < b ? b : a, limit: 1_000 };
          for (const [metric, points] of wanted) {
            const sorted = [...points].toSorted(([left], [right]) => (left < right ? -1 : 1));
            const within = sorted.filter(([timeNs]) => timeNs >= range.fromNs && timeNs < range.toNs);
            const query = { deviceId, metric, ...range };
            const found = (await history.readings(query)).map(({ timeNs, value }) => [timeNs, value]);
            expect(found).toEqual(within);
            expect((await history.readings({ ...query, limit: 3 })).map(({ timeNs }) => timeNs)).toEqual(
              within.slice(0, 3).map(([timeNs]) => timeNs),
            );
            const counts = await history.windows({
              ...query,
              toNs: last + 1n,
              fromNs: first,
              windowMs: 7_000,
              aggregates: ['count'],
            });
            expect(counts.reduce((sum, { count }) => sum + Number(count), 0)).toBe(points.size);
            expect((await history.latest(deviceId)).get(metric)).toEqual({
              timeNs: sorted.at(-1)?.[0],
              value: sorted.at(-1)?.[1],
            });
          }
        },
      ),
      { numRuns: 60 },
    );
    await history.close();
  });

  test('readings of versions before chunks are still there, and give way to later ones of the same time', async () => {
    const path = join(folder, 'before-chunks');
    const before = new ClassicLevel(path);
    for (const [time, value] of [
      ['1700000000000000000', '1'],
      ['1700000001000000000', '"two"'],
      ['1700000015000000000', '3'],
    ])
      await before.put(`p/a/x/${time}`, String(value));
    await before.close();
    const history = await LevelHistory.open(path);
    await append(
      history,
      telemetryLine('a', { x: 2 }, '1700000001000000000'),
      telemetryLine('a', { x: 1.5 }, '1700000000500000000'),
    );
    const range = { deviceId: 'a', metric: 'x', fromNs: 0n, toNs: 2n ** 62n, limit: 10 };
    expect((await history.readings(range)).map(({ value }) => value)).toEqual([1, 1.5, 2, 3]);
    expect((await history.latest('a')).get('x')?.value).toBe(3);
    await history.close();
  });

  test('a folder has one owner', async () => {
    const history = await LevelHistory.open(join(folder, 'owned'));
    await expect(LevelHistory.open(join(folder, 'owned'))).rejects.toMatchObject({ cause: { code: 'LEVEL_LOCKED' } });
    await history.close();
  });
});

/** A small file system, where the machine lets us have one. */
function smallFileSystem(): string | undefined {
  const mount = mkdtempSync(join(tmpdir(), 'downlink-small-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=32m', 'tmpfs', mount], { stdio: 'ignore' });
    return mount;
  } catch {
    rmdirSync(mount);
    return undefined;
  }
}

describe('embedded: a full disk', () => {
  test('is history_unavailable; with room again all goes on, and nothing that was taken is gone', async ({ skip }) => {
    const small = smallFileSystem();
    if (small === undefined) return skip('no file system may be mounted here');
    const open = (): Promise<LevelHistory> => LevelHistory.open(join(small, 'history'));
    let history = await open();
    const taken: number[] = [];
    const appendOne = async (x: number): Promise<void> => {
      await append(history, telemetryLine('a', { x, ballast: 'b'.repeat(1_000) }, String(x)));
      taken.push(x);
    };
    const unavailable = expect.objectContaining({ code: 'history_unavailable' }) as unknown;
    try {
      await appendOne(0);
      const filler = join(small, 'filler');
      await writeFile(filler, Buffer.alloc(64 * 1024 * 1024)).catch(() => {});
      let refusal: unknown;
      for (let x = 1; refusal === undefined; x += 1) await appendOne(x).catch((error: unknown) => (refusal = error));
      expect(refusal).toEqual(unavailable);
      await expect(history.check()).rejects.toEqual(unavailable);
      await rm(filler);
      await appendOne(taken.length + 100);
      await history.check();
      await history.close();
      history = await open();
      const points = await history.readings({ deviceId: 'a', metric: 'x', fromNs: 0n, toNs: 2n ** 62n, limit: 100_000 });
      expect(points.map((point) => point.value)).toEqual(expect.arrayContaining(taken));
    } finally {
      await history.close();
      execFileSync('umount', [small]);
      rmdirSync(small);
    }
  });
});
