import { duration } from '../../simulators/table.ts';
import type { Measured } from './measured.ts';

/** Which way for which needs, chosen by what was measured in this run. */
type Need = {
  readonly need: string;
  /** Ways that can do it at all. */
  readonly among: (way: Measured) => boolean;
  readonly cost: (way: Measured) => number;
  readonly because: (way: Measured) => string;
};

const HTTP_ONLY = new Set(['sse', 'long-poll', 'poll', 'conditional', 'adaptive', 'one-trip']);
const AWAKE = new Set(['push', 'sse', 'long-poll', 'notify', 'hybrid']);
const SLEEPS = new Set(['poll', 'conditional', 'adaptive', 'one-trip']);

const NEEDS: readonly Need[] = [
  {
    need: 'A command must arrive at once; power comes from the wall',
    among: () => true,
    cost: ({ latencyP99Ms }) => latencyP99Ms,
    because: ({ latencyP50Ms, latencyP99Ms }) => `p50 ${duration(latencyP50Ms)}, p99 ${duration(latencyP99Ms)}`,
  },
  {
    need: 'The same, behind a proxy that lets only HTTP through',
    among: ({ way }) => HTTP_ONLY.has(way) && AWAKE.has(way),
    cost: ({ latencyP99Ms, bytes }) => latencyP99Ms * Math.sqrt(bytes),
    because: ({ latencyP99Ms, bytes }) => `p99 ${duration(latencyP99Ms)} at ${kilobytes(bytes)} a device and hour`,
  },
  {
    need: 'The battery must last; a command may wait for the next wake',
    among: ({ way }) => SLEEPS.has(way),
    cost: ({ radioOnSeconds }) => radioOnSeconds,
    because: ({ radioOnSeconds, latencyP50Ms }) =>
      `radio on ${radioOnSeconds.toFixed(1)} s a device and hour, p50 ${duration(latencyP50Ms)}`,
  },
  {
    need: 'A battery, and yet a command within seconds',
    among: ({ way }) => AWAKE.has(way),
    cost: ({ radioOnSeconds }) => radioOnSeconds,
    because: ({ radioOnSeconds, latencyP99Ms }) =>
      `radio on ${radioOnSeconds.toFixed(1)} s a device and hour, p99 ${duration(latencyP99Ms)}`,
  },
  {
    need: 'Every octet is paid for',
    among: () => true,
    cost: ({ bytes }) => bytes,
    because: ({ bytes }) => `${kilobytes(bytes)} a device and hour`,
  },
  {
    need: 'As many devices on one server as can be',
    among: () => true,
    cost: ({ serverCpuMs }) => serverCpuMs,
    because: ({ serverCpuMs }) => `${serverCpuMs.toFixed(0)} ms of the server's CPU a device and hour`,
  },
  {
    need: 'A network where MQTT comes and goes',
    among: ({ way }) => way === 'hybrid',
    cost: () => 0,
    because: ({ latencyP99Ms }) =>
      `pushed while it can be (p99 ${duration(latencyP99Ms)}), pulled while it cannot, nothing lost between`,
  },
];

export type Advice = { readonly need: string; readonly way: string; readonly because: string };

/** One line a need that one of the measured ways can meet. A way that lost a command is not advised. */
export function adviceFrom(measured: readonly Measured[]): Advice[] {
  return NEEDS.flatMap(({ need, among, cost, because }) => {
    const fit = measured.filter((way) => way.missing === 0 && way.commands > 0 && among(way));
    const best = fit.toSorted((a, b) => cost(a) - cost(b))[0];
    return best === undefined ? [] : [{ need, way: best.title, because: because(best) }];
  });
}

function kilobytes(bytes: number): string {
  return `${(bytes / 1_000).toFixed(1)} kB`;
}
