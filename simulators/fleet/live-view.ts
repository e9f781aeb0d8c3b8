import type { Screen } from '../screen.ts';
import type { FaultCounts } from './faults.ts';
import { waysInUse, type Counts, type Meter } from './meter.ts';
import { isSleepy, WAYS, type Way } from './ways.ts';
import { clockTime, duration, grouped, table } from '../table.ts';

/** The meter as it runs: a block that is drawn over every second, or a line every few seconds where there is no terminal. */
export class LiveView {
  readonly #screen: Screen;
  readonly #meter: Meter;
  readonly #faults: FaultCounts;
  readonly #heading: string;
  readonly #openCommands: () => number;
  #last: Totals;
  #lines = 0;

  constructor(screen: Screen, parts: { meter: Meter; faults: FaultCounts; heading: string; openCommands: () => number }) {
    this.#screen = screen;
    this.#meter = parts.meter;
    this.#faults = parts.faults;
    this.#heading = parts.heading;
    this.#openCommands = parts.openCommands;
    this.#last = this.#totals(performance.now());
  }

  /** Called about once a second. `status` says what is going on. */
  tick(status: string, elapsedSeconds: number): void {
    this.#lines += 1;
    if (this.#screen.isLive) this.#screen.show(this.#block(status, elapsedSeconds));
    else if (this.#lines % LINE_EVERY_TICKS === 0) this.#screen.say(this.#line(status, elapsedSeconds));
  }

  #block(status: string, elapsedSeconds: number): string[] {
    const inUse = waysInUse(this.#meter);
    const now = this.#totals(performance.now());
    const last = this.#last;
    this.#last = now;
    const perSecond = (key: keyof Sums, way: Way) =>
      (((now.ways[way][key] - last.ways[way][key]) * 1_000) / Math.max(1, now.atMs - last.atMs)).toFixed(1);
    const ways = (label: string, cell: (counts: Counts, way: Way) => string) => [
      label,
      ...inUse.map((way) => cell(this.#meter.ways[way], way)),
    ];
    return [
      `${this.#heading}   ${clockTime(elapsedSeconds)}   ${status}`,
      ...table([
        ways('', (counts, way) => `${way} (${counts.devices})`),
        ways('commands/s', (_, way) => perSecond('issued', way)),
        ways('readings/s', (_, way) => perSecond('readings', way)),
        ways('wakes/s', (_, way) => (isSleepy(way) ? perSecond('wakes', way) : '-')),
        ways('delivery p50', (counts) => duration(counts.delivery.percentile(0.5))),
        ways('delivery p99', (counts) => duration(counts.delivery.percentile(0.99))),
      ]),
      `open commands ${grouped(this.#openCommands())}   faults injected ${grouped(faultsInjected(this.#faults))}`,
    ];
  }

  #line(status: string, elapsedSeconds: number): string {
    const now = this.#totals(performance.now());
    const seconds = Math.max(1, now.atMs - this.#last.atMs) / 1_000;
    const inUse = waysInUse(this.#meter);
    const rate = (key: keyof Sums) =>
      (inUse.reduce((sum, way) => sum + now.ways[way][key] - this.#last.ways[way][key], 0) / seconds).toFixed(1);
    const deliveries = inUse.map((way) => `${way} ${delivery(this.#meter.ways[way])}`).join(' ');
    const line =
      `${clockTime(elapsedSeconds)} ${status}: ${rate('issued')} commands/s, ${rate('readings')} readings/s, ${rate('wakes')} wakes/s, ` +
      `delivery p50/p99 ${deliveries}, open ${this.#openCommands()}, faults ${faultsInjected(this.#faults)}`;
    this.#last = now;
    return line;
  }

  #totals(atMs: number): Totals {
    const ways = Object.fromEntries(WAYS.map((way) => [way, totals(this.#meter.ways[way])])) as Totals['ways'];
    return { atMs, ways };
  }
}

type Sums = { readonly issued: number; readonly readings: number; readonly wakes: number };
type Totals = { readonly atMs: number; readonly ways: Record<Way, Sums> };

const LINE_EVERY_TICKS = 5;

function delivery(counts: Counts): string {
  return `${duration(counts.delivery.percentile(0.5))}/${duration(counts.delivery.percentile(0.99))}`;
}

function totals({ issued, readings, wakes }: Counts): Sums {
  return { issued, readings, wakes };
}

export function faultsInjected(faults: FaultCounts): number {
  let sum = 0;
  for (const count of faults.values()) sum += count;
  return sum;
}
