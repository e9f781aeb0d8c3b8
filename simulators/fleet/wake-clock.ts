import { createTask, type ScheduledTask } from 'node-cron';
import type { Random } from '../models/random.ts';

/** Wakes sleepy devices by node-cron, in UTC. Devices with the same expression share one task, so that a big fleet costs little. */
export class WakeClock {
  readonly #sleepers = new Map<string, (() => void)[]>();
  #tasks: ScheduledTask[] = [];

  /** Calls `wake` at the times of `cron` (six fields, seconds first) once started. */
  add(cron: string, wake: () => void): void {
    const sleepers = this.#sleepers.get(cron);
    if (sleepers === undefined) this.#sleepers.set(cron, [wake]);
    else sleepers.push(wake);
  }

  start(): void {
    this.#tasks = [...this.#sleepers].map(([cron, wakes]) =>
      createTask(cron, () => wakes.forEach((wake) => wake()), { timezone: 'UTC', suppressMissedWarning: true }),
    );
    for (const task of this.#tasks) void task.start();
  }

  stop(): void {
    for (const task of this.#tasks.splice(0)) void task.destroy();
  }
}

/** A schedule with one of the periods (seconds, below 60), from a second of its own: few different ones, however big the fleet. */
export function drawWakeCron(random: Random, periods: readonly [number, ...number[]]): string {
  const period = random.pick(periods);
  return `${random.integer(0, period - 1)}-59/${period} * * * * *`;
}
