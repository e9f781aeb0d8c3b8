import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { median, percentile } from '../bench/statistics.ts';

/** The benchmarks run small here, so that they cannot rot. They say nothing about speed on a busy machine, and nothing is asserted of it. */
const ROOT = join(import.meta.dirname, '..');

type Summary = { median: number; low: number; high: number; runs: number[] };
type Output = { machine: Record<string, unknown>; runs: number; results: { id: string; downlink: Summary; peer: Summary }[] };

it('measures every figure on Downlink and on its peer, and finds all that was acknowledged', async () => {
  const { stdout } = await bench('--quick', '--json');
  const { machine, runs, results } = JSON.parse(stdout) as Output;

  expect(machine).toMatchObject({ node: process.versions.node, versions: { downlink: expect.any(String) } });
  expect(runs).toBe(1);
  expect(results.map(({ id }) => id)).toEqual(['readings', 'poll', 'pull', 'push-p50', 'push-p99']);
  for (const { id, downlink, peer } of results) {
    for (const side of [downlink, peer]) expect(side.median, id).toBeGreaterThan(0);
  }
});

it('prints a line a figure, with the peer beside it', async () => {
  const { stdout } = await bench('--quick', '--only', 'poll');
  expect(stdout).toMatch(/polls with nothing queued .* per s .* Fastify, a bare 204/);
});

it('refuses an option it does not know, in one line', async () => {
  await expect(bench('--only', 'nothing')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^--only knows readings, poll, pull, push, not nothing$/m),
  });
});

it('takes medians and percentiles by the usual rules', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
  expect(percentile([5, 1, 4, 2, 3], 0.5)).toBe(3);
  expect(percentile([1, 2], 0.99)).toBe(2);
});

/** Through the npm script's own way in, which builds first if it must. */
function bench(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  return promisify(execFile)(process.execPath, [join(ROOT, '.scripts/run.mjs'), 'bench', ...args], { cwd: ROOT });
}
