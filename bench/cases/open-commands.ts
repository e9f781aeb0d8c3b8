import { setTimeout as delay } from 'node:timers/promises';
import type { BenchCase, Effort, Figure, Load, Result } from '../bench-case.ts';
import { startDownlinkOn, type Downlink } from '../downlink-target.ts';
import { HttpConnection } from '../load/http-connection.ts';
import { settledBytes } from '../resident-memory.ts';
import { makeScratchFolder } from '../scratch-folder.ts';
import { deviceIndex, seedState, setDeadlines } from '../seed-state.ts';
import { median } from '../statistics.ts';
import type { Device } from '../target.ts';

/** Whether cost grows with the work or with what is stored: the same figures with ever more open commands, beside those with the fewest. */
const SAMPLES = 200;
const EXPIRE_MS_MAX = 300_000;
const LOOK_EVERY_MS = 20;
/** From here to the deadline: the server starts within this, and three times what it last took. */
const DEADLINE_AHEAD_MS = 2_000;
const OPEN_METRICS = ['queued', 'sent'].map((state) => `downlink_commands_open{state="${state}"}`);

type Key = 'memory' | 'ready' | 'issue' | 'lease' | 'expire';
const FIGURES: readonly Omit<Figure, 'goal'>[] = [
  { id: 'memory', title: 'memory', unit: 'MB' },
  { id: 'ready', title: 'restart to ready', unit: 's' },
  { id: 'issue', title: 'issue, p50', unit: 'ms' },
  { id: 'lease', title: 'lease, p50', unit: 'ms' },
  { id: 'expire', title: 'from the deadline until all have expired', unit: 's' },
];
/** What a million may cost. */
const GOALS: Record<string, string> = { memory: '<= 1,000 MB', ready: '<= 15 s', lease: '<= 2.00 x' };

export const openCommands: BenchCase = {
  id: 'open-commands',

  async run(effort) {
    const { openCounts } = effort.load;
    const runs = effort.runs(1);
    const measured = new Map<number, Record<Key, number>[]>(openCounts.map((count) => [count, []]));
    for (let run = 1; run <= runs; run += 1) {
      for (const count of openCounts) {
        effort.say(`open-commands: ${count.toLocaleString('en-US')} open, run ${run} of ${runs}`);
        measured.get(count)?.push(await measure(count, effort.load));
      }
    }
    return results(measured, effort);
  },
};

function results(measured: ReadonlyMap<number, readonly Record<Key, number>[]>, { load }: Effort): Result[] {
  const [first = 0] = load.openCounts;
  const valuesOf = (count: number, id: string): number[] => measured.get(count)?.map((values) => values[id as Key]) ?? [];
  return FIGURES.flatMap(({ id, title, unit }) =>
    load.openCounts.map((count): Result => {
      const figure = {
        id: `open-${id}-${count}`,
        title: `${count.toLocaleString('en-US')} open commands: ${title}`,
        unit,
        ...(count === 1_000_000 && GOALS[id] !== undefined && { goal: GOALS[id] }),
      };
      const downlinkRuns = valuesOf(count, id);
      if (count === first) return { figure, downlinkRuns };
      return { figure, downlinkRuns, peer: { title: `itself with ${first.toLocaleString('en-US')}`, runs: valuesOf(first, id) } };
    }),
  );
}

async function measure(count: number, { openDevices, settleMsMax }: Load): Promise<Record<Key, number>> {
  const folder = await makeScratchFolder('open');
  try {
    const devices = await seedState(folder.path, openDevices, count);
    const first = await startDownlinkOn(folder.path, devices);
    let memory: number;
    let issue: number;
    let lease: number;
    try {
      memory = await settledBytes(first, settleMsMax);
      issue = await issueMs(first);
      lease = await leaseMs(first, count);
    } finally {
      await first.stop();
    }
    const deadline = Date.now() + DEADLINE_AHEAD_MS + 3 * first.startMs + count / 20;
    await setDeadlines(folder.path, deadline);
    const second = await startDownlinkOn(folder.path, devices);
    try {
      const expire = await expireMs(second, deadline);
      return { memory: memory / 1_000_000, ready: first.startMs / 1_000, issue, lease, expire: expire / 1_000 };
    } finally {
      await second.stop();
    }
  } finally {
    await folder.remove();
  }
}

async function issueMs({ httpPort, operatorKey, devices }: Downlink): Promise<number> {
  const operator = await HttpConnection.open(httpPort, operatorKey);
  const times: number[] = [];
  for (const { id } of spread(devices)) {
    times.push(await timed(() => operator.expect(201, 'POST', `/v1/devices/${id}/commands`, '{"name":"set","params":{"n":1}}')));
  }
  operator.close();
  return median(times);
}

async function leaseMs({ httpPort, devices }: Downlink, count: number): Promise<number> {
  const waiting = Array.from({ length: Math.min(count, devices.length) }, (_, n) => deviceIndex(n, devices.length, count));
  const times: number[] = [];
  for (const { token } of spread(waiting.flatMap((i) => devices[i] ?? []))) {
    const connection = await HttpConnection.open(httpPort, token);
    times.push(await timed(() => connection.expect(200, 'GET', '/v1/device/commands?limit=1')));
    connection.close();
  }
  return median(times);
}

/** From the deadline (or the server's readiness, if that was later) until none is open. */
async function expireMs({ metric }: Downlink, deadline: number): Promise<number> {
  await delay(Math.max(0, deadline - Date.now()));
  const startedAt = performance.now();
  while (performance.now() - startedAt < EXPIRE_MS_MAX) {
    const open = await Promise.all(OPEN_METRICS.map((name) => metric(name)));
    if (open.every((count) => count === 0)) return performance.now() - startedAt;
    await delay(LOOK_EVERY_MS);
  }
  throw new Error(`commands are open ${EXPIRE_MS_MAX / 1_000} s after their deadline`);
}

/** At most so many as are sampled, evenly apart. */
function spread(devices: readonly Device[]): Device[] {
  const step = Math.max(1, Math.floor(devices.length / SAMPLES));
  return devices.filter((_, i) => i % step === 0).slice(0, SAMPLES);
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}
