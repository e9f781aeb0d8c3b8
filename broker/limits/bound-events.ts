import { Counter } from 'prom-client';
import type { Logger } from 'pino';
import { SECOND_MS } from '../../devices/clock.ts';
import { BOUND_NAMES, BOUNDS, type Bound, type BoundName } from '../bounds.ts';
import type { Metrics } from '../metrics.ts';

/** What happens when a bound is reached: it counts, and is told in the log, once a second a bound at the most, with how often it was left out. */
export class BoundEvents {
  readonly #counter;
  readonly #log: Logger;
  readonly #leftOut = new Map<BoundName, number>();

  constructor(metrics: Metrics, log: Logger) {
    this.#log = log;
    this.#counter = new Counter({
      name: 'downlink_bound_reached_total',
      help: 'How often a bound turned something away or slowed it down',
      labelNames: ['bound'] as const,
      registers: [metrics.registry],
    });
    for (const bound of BOUND_NAMES) this.#counter.inc({ bound }, 0);
  }

  /** `who`: what is known of the client: its address, its id. `times`: how much it turned away at once. */
  reached(bound: BoundName, who: Readonly<Record<string, string | undefined>>, times = 1): void {
    this.#counter.inc({ bound }, times);
    const leftOut = this.#leftOut.get(bound);
    if (leftOut !== undefined) {
      this.#leftOut.set(bound, leftOut + times);
      return;
    }
    this.#leftOut.set(bound, times - 1);
    const { variable, level = 'info' }: Bound = BOUNDS[bound];
    this.#log[level]({ bound, ...who }, `bound reached: ${bound} (${variable})`);
    setTimeout(() => this.#tellLeftOut(bound), SECOND_MS).unref();
  }

  #tellLeftOut(bound: BoundName): void {
    const times = this.#leftOut.get(bound) ?? 0;
    this.#leftOut.delete(bound);
    const { level = 'info' }: Bound = BOUNDS[bound];
    if (times > 0) this.#log[level]({ bound, times }, `bound reached: ${bound}, ${times} times more within a second`);
  }
}
