import { monitorEventLoopDelay } from 'node:perf_hooks';

/**
 * How near the server is to failing, as a number from 0 to 1. Each source is 0 while all is well and 1 where it fails; the worst counts.
 *
 *   calm  pressure is 0, whatever the sources say below ENTER
 *   busy  pressure is the worst source's
 *
 * It becomes busy after the worst has been at ENTER or more for some samples running, and calm again after it was below LEAVE for as many: a
 * pause of the collector is no overload, and a server that has just got its breath back is not flooded at once.
 */
export type PressureSource = { readonly name: string; readonly read: () => number };

const SAMPLE_EVERY_MS = 1_000;
const ENTER = 0.5;
const LEAVE = 0.3;
const SAMPLES_TO_CHANGE = 3;
/** Mean delay of the event loop at which it is as good as standing. */
const LOOP_DELAY_MS_FULL = 250;
const LOOP_RESOLUTION_MS = 20;
const NS_PER_MS = 1e6;

export class Overload {
  readonly #sources: readonly PressureSource[];
  readonly #readings = new Map<string, number>();
  #isBusy = false;
  #samplesAgainst = 0;
  #worst = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(sources: readonly PressureSource[]) {
    this.#sources = sources;
    for (const { name } of sources) this.#readings.set(name, 0);
  }

  /** 0 while calm, else up to 1: about to fail. */
  get pressure(): number {
    return this.#isBusy ? this.#worst : 0;
  }

  /** What each source said last. */
  get readings(): ReadonlyMap<string, number> {
    return this.#readings;
  }

  start(): void {
    this.#timer ??= setInterval(() => this.sample(), SAMPLE_EVERY_MS).unref();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** Reads the sources; called once a second. */
  sample(): void {
    this.#worst = 0;
    for (const { name, read } of this.#sources) {
      const reading = Math.min(Math.max(read(), 0), 1);
      this.#readings.set(name, reading);
      this.#worst = Math.max(this.#worst, reading);
    }
    const isAgainst = this.#isBusy ? this.#worst < LEAVE : this.#worst >= ENTER;
    this.#samplesAgainst = isAgainst ? this.#samplesAgainst + 1 : 0;
    if (this.#samplesAgainst < SAMPLES_TO_CHANGE) return;
    this.#isBusy = !this.#isBusy;
    this.#samplesAgainst = 0;
  }
}

/** How late the event loop runs, on average since the last reading. */
export function loopDelay(): PressureSource & { close(): void } {
  const delay = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
  delay.enable();
  return {
    name: 'event_loop',
    read: () => {
      const ms = delay.count === 0 ? 0 : delay.mean / NS_PER_MS - LOOP_RESOLUTION_MS;
      delay.reset();
      return ms / LOOP_DELAY_MS_FULL;
    },
    close: () => delay.disable(),
  };
}

/** What is in use of something bounded. Nothing up to `from` of the bound. */
export function fill(name: string, from: number, read: () => { used: number; max: number }): PressureSource {
  return {
    name,
    read: () => {
      const { used, max } = read();
      return (used / max - from) / (1 - from);
    },
  };
}
