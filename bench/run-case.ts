import type { BenchCase, Load } from './bench-case.ts';
import { startDownlink } from './downlink-target.ts';
import { startPeer } from './peer-target.ts';
import type { Result } from './report.ts';
import type { Target } from './target.ts';

/** A run that lasts this long hangs: something was lost on the way. */
const RUN_MS_MAX = 300_000;

/** Measures Downlink and the peer in turn, each run on servers started afresh, so that none carries another's backlog. */
export async function runCase(bench: BenchCase, runs: number, load: Load, say: (text: string) => void): Promise<Result[]> {
  const downlink: Record<string, number>[] = [];
  const peer: Record<string, number>[] = [];
  for (let run = 1; run <= runs; run += 1) {
    say(`${bench.id}: run ${run} of ${runs}`);
    downlink.push(
      await withTarget(startDownlink(bench.devices(load)), async (target) => {
        await bench.prepare?.(target, load);
        const measured = await bench.measure(target, load);
        await bench.verify?.(target, measured);
        return measured;
      }),
    );
    peer.push(await withTarget(startPeer(bench.peer.script, bench.devices(load)), (target) => bench.measure(target, load)));
  }
  return bench.figures.map((figure) => ({
    figure,
    peer: bench.peer.title,
    downlinkRuns: downlink.map((measured) => measured[figure.id] ?? Number.NaN),
    peerRuns: peer.map((measured) => measured[figure.id] ?? Number.NaN),
  }));
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
