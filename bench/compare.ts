import type { BenchCase, Effort, Figure, Load, Result } from './bench-case.ts';
import { startDownlink } from './downlink-target.ts';
import type { Target } from './target.ts';

/** A case that is measured in the same way on Downlink and on its peers. */
export type Comparison = {
  readonly id: string;
  readonly figures: readonly Figure[];
  /** How often it is measured where nobody said it; five times when absent. */
  readonly usualRuns?: number;
  /** Why it cannot be measured here, or undefined. */
  readonly obstacle?: () => string | undefined;
  /** How many devices the target is to know. */
  devices(load: Load, effort: Effort): number;
  peers(): readonly Peer[];
  readonly startDownlink?: (deviceCount: number) => Promise<Target>;
  /** What only Downlink needs before it can be measured: a peer has its answers at hand. */
  readonly prepare?: (target: Target, load: Load) => Promise<void>;
  /** One value a figure, by its id. */
  measure(target: Target, load: Load): Promise<Record<string, number>>;
  /** Throws when Downlink did not keep what it had acknowledged. Called after `measure`, on Downlink only. */
  readonly verify?: (target: Target, measured: Record<string, number>) => Promise<void>;
};

export type Peer = { readonly title: string; readonly start: (deviceCount: number) => Promise<Target> };

/** A run that lasts this long hangs: something was lost on the way. */
const RUN_MS_MAX = 900_000;
const RUNS_USUAL = 5;

export function compare(comparison: Comparison): BenchCase {
  return { id: comparison.id, run: (effort) => runComparison(comparison, effort) };
}

/** Downlink and its peers in turn, each run on servers started afresh, so that none carries another's backlog. */
async function runComparison(comparison: Comparison, effort: Effort): Promise<Result[]> {
  const { id, figures } = comparison;
  const { load, say, note } = effort;
  const obstacle = comparison.obstacle?.();
  if (obstacle !== undefined) {
    note(`${id}: skipped, ${obstacle}`);
    return [];
  }
  const start = comparison.startDownlink ?? startDownlink;
  const deviceCount = comparison.devices(load, effort);
  const runs = effort.runs(comparison.usualRuns ?? RUNS_USUAL);
  const peers = comparison.peers().map((peer) => ({ ...peer, measured: [] as Record<string, number>[] }));
  const downlink: Record<string, number>[] = [];
  for (let run = 1; run <= runs; run += 1) {
    say(`${id}: run ${run} of ${runs}`);
    downlink.push(
      await withTarget(start(deviceCount), async (target) => {
        await comparison.prepare?.(target, load);
        const measured = await comparison.measure(target, load);
        await comparison.verify?.(target, measured);
        return measured;
      }),
    );
    for (const { start: startPeer, measured } of peers) {
      measured.push(await withTarget(startPeer(deviceCount), (target) => comparison.measure(target, load)));
    }
  }
  return figures.flatMap((figure) => {
    const downlinkRuns = valuesOf(downlink, figure);
    if (figure.isOwn) return [{ figure, downlinkRuns }];
    return peers.map(({ title, measured }) => ({ figure, downlinkRuns, peer: { title, runs: valuesOf(measured, figure) } }));
  });
}

function valuesOf(measured: readonly Record<string, number>[], { id }: Figure): number[] {
  return measured.map((values) => values[id] ?? Number.NaN);
}

async function withTarget<T>(starting: Promise<Target>, work: (target: Target) => Promise<T>): Promise<T> {
  const target = await starting;
  const tooLate = failAfter(RUN_MS_MAX);
  try {
    return await Promise.race([work(target), tooLate.promise]);
  } finally {
    clearTimeout(tooLate.timer);
    await target.stop();
  }
}

function failAfter(ms: number): { promise: Promise<never>; timer: NodeJS.Timeout | undefined } {
  let timer: NodeJS.Timeout | undefined;
  const promise = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the run did not end within ${ms / 1_000} s`)), ms);
  });
  return { promise, timer };
}
