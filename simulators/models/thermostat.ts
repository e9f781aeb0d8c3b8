import { failed, rejected, rounded, succeeded, type Model, type Outcome, type Params } from './model.ts';
import type { Random } from './random.ts';

/** A room with a thermostat: the temperature follows its set point, a little noisy. Commands: `set_target {celsius}`, `ping`. */
export class Thermostat implements Model {
  readonly commands = {
    set_target: (params: Params, now: number) => this.#setTarget(params, now),
    ping: (): Outcome => succeeded('pong'),
  };
  readonly #random: Random;
  #celsius: number;
  #target: number;
  #at: number;

  constructor(random: Random, now: number) {
    this.#random = random;
    this.#celsius = random.between(16, 24);
    this.#target = Math.round(random.between(18, 23));
    this.#at = now;
  }

  read(now: number): Record<string, number | boolean> {
    this.#move(now);
    const temperature = rounded(this.#celsius + this.#random.normal() * NOISE_CELSIUS, 2);
    return { temperature, target: this.#target, heating: this.#target - this.#celsius > DEAD_BAND_CELSIUS };
  }

  #setTarget(params: Params, now: number): Outcome {
    const { celsius } = params;
    if (typeof celsius !== 'number') return rejected('celsius is a number');
    if (celsius < CELSIUS_MIN || celsius > CELSIUS_MAX) return rejected(`celsius is from ${CELSIUS_MIN} to ${CELSIUS_MAX}`);
    this.#move(now);
    if (this.#random.chance(VALVE_STUCK)) return failed('the valve does not move', VALVE_MS);
    const was = this.#target;
    this.#target = celsius;
    return succeeded({ target: celsius, was }, VALVE_MS);
  }

  /** Towards the set point, by the same share of the way left in each second. */
  #move(now: number): void {
    const share = 1 - Math.exp(-Math.max(0, now - this.#at) / FOLLOW_MS);
    this.#celsius += (this.#target - this.#celsius) * share;
    this.#at = Math.max(this.#at, now);
  }
}

const FOLLOW_MS = 60_000;
const NOISE_CELSIUS = 0.05;
const DEAD_BAND_CELSIUS = 0.2;
const CELSIUS_MIN = 5;
const CELSIUS_MAX = 30;
const VALVE_MS = 50;
const VALVE_STUCK = 0.02;
