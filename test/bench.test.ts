import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { findServer } from '../bench/found-servers.ts';
import { median, percentile } from '../bench/statistics.ts';
import { watchStolenTime } from '../bench/stolen-time.ts';

/** The benchmarks run small here, so that they cannot rot. They say nothing about speed on a busy machine, and nothing is asserted of it. */
const ROOT = join(import.meta.dirname, '..');

type Summary = { median: number; low: number; high: number; runs: number[] };
type Output = {
  machine: Record<string, unknown>;
  notes: string[];
  results: { id: string; downlink: Summary; peer?: Summary & { title: string } }[];
};

const WITH_INFLUX = [
  ['readings-influx', 'backlog', 'backlog-growth'],
  ['outage-drain', 'outage-lost', 'outage-memory', 'outage-backlog', 'outage-rate'],
];
const [AT_FULL_SPEED = [], AFTER_OUTAGE = []] = findServer('influxd') === undefined ? [] : WITH_INFLUX;
/** Differences of memory and of backlogs may be nothing in so short a time, or less. */
const MAY_BE_NOTHING = /^(idle-memory|backlog.*|outage-(lost|memory|backlog))$/;

it('measures every figure on Downlink and on its peers, and finds all that was acknowledged', async () => {
  const { stdout } = await bench('--quick', '--json');
  const { machine, results } = JSON.parse(stdout) as Output;

  expect(machine).toMatchObject({ node: process.versions.node, versions: { downlink: expect.any(String) } });
  expect([...new Set(results.map(({ id }) => id))]).toEqual([
    'readings',
    ...AT_FULL_SPEED,
    ...['push-p50', 'push-p99', 'push-rate', 'push-beside', 'poll', 'pull', 'idle-memory', 'idle-total', 'idle-connections'],
    ...['memory', 'ready', 'issue', 'lease', 'expire'].flatMap((what) => [`open-${what}-50`, `open-${what}-200`]),
    ...AFTER_OUTAGE,
  ]);
  for (const { id, downlink, peer } of results) {
    for (const side of peer === undefined ? [downlink] : [downlink, peer]) {
      expect(side.runs, id).toEqual([expect.any(Number)]);
      if (!MAY_BE_NOTHING.test(id)) expect(side.median, id).toBeGreaterThan(0);
    }
  }
  expect(results.find(({ id }) => id === 'outage-lost')?.downlink.median ?? 0).toBe(0);
});

it('says what it leaves out for want of a server', async () => {
  const { stdout } = await bench('--quick', '--json', '--only', 'readings-influx,readings');
  const { notes, results } = JSON.parse(stdout) as Output;
  const leftOut = notes.filter((note) => !note.includes('other virtual machines'));
  if (findServer('influxd') === undefined)
    expect(leftOut).toEqual([expect.stringMatching(/^readings-influx: skipped, no influxd/)]);
  else expect(leftOut).toEqual([]);
  const peers = results.filter(({ id }) => id === 'readings').map(({ peer }) => peer?.title);
  expect(peers).toHaveLength(findServer('mosquitto') === undefined ? 1 : 2);
});

it('prints a line a figure, with the peer beside it', async () => {
  const { stdout } = await bench('--quick', '--only', 'poll');
  expect(stdout).toMatch(/polls with nothing queued .* per s .* Fastify, a bare 204/);
});

it('refuses an option it does not know, in one line', async () => {
  await expect(bench('--only', 'nothing')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^--only knows readings, .*, not nothing$/m),
  });
});

it('says when other virtual machines had the processors meanwhile', () => {
  let stat = 'cpu  100 0 100 700 0 0 0 100 0 0\ncpu0 1 2 3';
  const stolen = watchStolenTime(() => stat);
  stat = 'cpu  150 0 150 775 0 0 0 125 0 0\ncpu0 1 2 3';
  expect(stolen()).toMatch(/^13 % of the processors' time went to other virtual machines/);
  stat = 'cpu  150 0 150 775 0 0 0 100 0 0\ncpu0 1 2 3';
  expect(stolen()).toBeUndefined();
  expect(watchStolenTime(() => '')()).toBeUndefined();
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
