import { seededRandom, type Random } from '../../simulators/models/random.ts';

/** What happens to the devices, the same for every way: which command at which moment, and when each device measures. */
export type Workload = {
  readonly devices: number;
  readonly seconds: number;
  readonly seed: number;
  /** How often a polling device wakes, and how often every device measures. */
  readonly everySeconds: number;
  /** Mean time between two commands to one device. */
  readonly commandSeconds: number;
  readonly keepaliveSeconds: number;
  /** How long a long poll waits. */
  readonly waitSeconds: number;
};

export type PlannedCommand = { readonly atMs: number; readonly device: number; readonly value: number };

export type Plan = {
  /** By time, milliseconds from the start of the measurement. */
  readonly commands: readonly PlannedCommand[];
  /** Of each device: when within its period it wakes and measures, 0..1. */
  readonly phases: readonly number[];
};

export function planOf({ devices, seconds, seed, commandSeconds }: Workload): Plan {
  const random = seededRandom(seed);
  const phases = Array.from({ length: devices }, () => random.next());
  const commands: PlannedCommand[] = [];
  for (let device = 0; device < devices; device += 1) {
    for (let atMs = gapMs(random, commandSeconds); atMs < seconds * 1_000; atMs += gapMs(random, commandSeconds)) {
      commands.push({ atMs, device, value: random.integer(0, 1_000) });
    }
  }
  return { commands: commands.toSorted((a, b) => a.atMs - b.atMs), phases };
}

/** Exponential, so that commands come as operators do: at any time. */
function gapMs(random: Random, meanSeconds: number): number {
  return -Math.log(1 - random.next()) * meanSeconds * 1_000;
}
