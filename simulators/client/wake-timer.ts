import { createTask, type ScheduledTask } from 'node-cron';
import type { WakeSchedule } from '../../devices/device.ts';
import { backoffMs } from './backoff.ts';

/**
 * When a device wakes: by a schedule of its own (cron, or an interval), as `server` when the server asks for it (its sleep hint, and with back-off
 * while it is away), as `manual` only when the program says so, or `always`: a long poll after the other.
 */
export type Schedule = WakeSchedule | 'server' | 'manual' | 'always';

/** Calls `wake` at its times, never while an earlier one is under way. */
export class WakeTimer {
  readonly #schedule: Schedule;
  readonly #wake: () => Promise<Wakened>;
  readonly #now: () => number;
  #task: ScheduledTask | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;
  #isAwake = false;
  #failures = 0;

  constructor(schedule: Schedule, wake: () => Promise<Wakened>, now: () => number = Date.now) {
    this.#schedule = schedule;
    this.#wake = wake;
    this.#now = now;
  }

  /** `first`: the contact that was made already. */
  start(first: Wakened): void {
    const schedule = this.#schedule;
    if (schedule === 'manual' || schedule === 'always') return;
    if (schedule === 'server') return this.#wakeAfter(first);
    if ('everySeconds' in schedule) return this.#wakeEvery(schedule.everySeconds * 1_000, this.#now());
    this.#task = createTask(schedule.cron, () => void this.#wakeUp(), {
      timezone: schedule.timezone ?? 'UTC',
      suppressMissedWarning: true,
    });
    void this.#task.start();
  }

  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    void this.#task?.destroy();
  }

  /** In step with the start, whatever a wake takes. */
  #wakeEvery(periodMs: number, lastAt: number): void {
    const now = this.#now();
    const at = lastAt + periodMs * Math.max(1, Math.ceil((now - lastAt) / periodMs));
    this.#sleepUntil(at, () => {
      this.#wakeEvery(periodMs, at);
      void this.#wakeUp();
    });
  }

  #wakeAfter({ status, sleepMs }: Wakened): void {
    const isAway = status === 0 || status >= 400;
    this.#failures = isAway ? this.#failures + 1 : 0;
    const ms = sleepMs ?? (isAway ? backoffMs(this.#failures - 1, AWAY) : SLEEP_MS_DEFAULT);
    this.#sleepUntil(
      this.#now() + Math.max(SLEEP_MS_MIN, ms),
      () => void this.#wakeUp().then((woken) => woken && this.#wakeAfter(woken)),
    );
  }

  async #wakeUp(): Promise<Wakened | undefined> {
    if (this.#isStopped || this.#isAwake) return undefined;
    this.#isAwake = true;
    try {
      return await this.#wake();
    } finally {
      this.#isAwake = false;
    }
  }

  /** However long: a timer of its own goes wrong beyond 2^31 ms. */
  #sleepUntil(at: number, then: () => void): void {
    if (this.#isStopped) return;
    const ms = Math.max(0, at - this.#now());
    this.#timer = setTimeout(() => (ms > TIMER_MS_MAX ? this.#sleepUntil(at, then) : then()), Math.min(ms, TIMER_MS_MAX));
  }
}

/** `status` 0: no answer. `sleepMs`: what the server asks for. */
export type Wakened = { readonly status: number; readonly sleepMs: number | undefined };

const SLEEP_MS_DEFAULT = 60_000;
const SLEEP_MS_MIN = 1_000;
const AWAY = { minMs: 1_000, maxMs: 300_000 };
const TIMER_MS_MAX = 86_400_000;
