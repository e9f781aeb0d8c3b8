import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
