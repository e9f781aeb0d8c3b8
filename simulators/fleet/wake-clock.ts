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

const PERIODS_SECONDS = [5, 10, 15, 20] as const;

/** Every 5 to 20 seconds, from a second of its own: at most 50 different expressions, however big the fleet. */
export function drawWakeCron(random: Random): string {
  const period = random.pick(PERIODS_SECONDS);
  return `${random.integer(0, period - 1)}-59/${period} * * * * *`;
}
