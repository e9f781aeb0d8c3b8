import { failed, rejected, rounded, succeeded, type Model, type Outcome, type Params } from './model.ts';
import type { Random } from './random.ts';

/** A pump that must be primed before it runs, takes its time for it, and fails now and then. Commands: `prime`, `start {rpm?}`, `stop`. */
export class Pump implements Model {
  readonly commands = {
    prime: (): Outcome => this.#prime(),
    start: (params: Params): Outcome => this.#start(params),
    stop: (): Outcome => this.#stop(),
  };
  readonly #random: Random;
  #primed = true;
  #rpm = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  read(): Record<string, number | boolean> {
    const running = this.#rpm > 0;
    const pressure = running ? (this.#rpm / RPM_MAX) * BAR_MAX + this.#random.normal() * NOISE_BAR : 0;
    return { running, rpm: this.#rpm, pressure: rounded(Math.max(0, pressure), 3) };
  }

  #prime(): Outcome {
    if (this.#rpm > 0) return rejected('stop it before priming');
    const afterMs = this.#random.integer(PRIME_MS_MIN, PRIME_MS_MAX);
    this.#primed = !this.#random.chance(PRIME_FAILS);
    return this.#primed ? succeeded({ primed: true, tookMs: afterMs }, afterMs) : failed('no suction: air in the line', afterMs);
  }

  #start({ rpm = RPM_DEFAULT }: Params): Outcome {
    if (typeof rpm !== 'number' || rpm <= 0 || rpm > RPM_MAX) return rejected(`rpm is a number up to ${RPM_MAX}`);
    if (!this.#primed) return failed('not primed');
    if (this.#random.chance(START_FAILS)) {
      this.#primed = false;
      this.#rpm = 0;
      return failed('ran dry: prime it again', START_MS);
    }
    this.#rpm = rpm;
    return succeeded({ rpm }, START_MS);
  }

  #stop(): Outcome {
    const wasRunning = this.#rpm > 0;
    this.#rpm = 0;
    return succeeded({ wasRunning });
  }
}

const RPM_DEFAULT = 1_450;
const RPM_MAX = 3_000;
const BAR_MAX = 6;
const NOISE_BAR = 0.02;
const START_MS = 120;
const START_FAILS = 0.1;
const PRIME_MS_MIN = 300;
const PRIME_MS_MAX = 2_500;
const PRIME_FAILS = 0.1;
