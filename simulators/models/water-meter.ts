import { failed, rejected, rounded, succeeded, type Model, type Outcome, type Params } from './model.ts';
import type { Random } from './random.ts';

/** A water meter: litres only ever grow, by a flow that changes as people use it. Commands: `read_now`, `set_valve {open}`. */
export class WaterMeter implements Model {
  readonly commands = {
    read_now: (_params: Params, now: number): Outcome => this.#readNow(now),
    set_valve: (params: Params, now: number): Outcome => this.#setValve(params, now),
  };
  readonly #random: Random;
  #litres: number;
  #litresAMinute = 0;
  #open = true;
  #at: number;

  constructor(random: Random, now: number) {
    this.#random = random;
    this.#litres = random.between(1_000, 90_000);
    this.#at = now;
  }

  read(now: number): Record<string, number | boolean> {
    this.#count(now);
    return { litres: rounded(this.#litres, 1), flow: rounded(this.#open ? this.#litresAMinute : 0, 2), open: this.#open };
  }

  #readNow(now: number): Outcome {
    return succeeded(this.read(now));
  }

  #setValve({ open }: Params, now: number): Outcome {
    if (typeof open !== 'boolean') return rejected('open is true or false');
    this.#count(now);
    if (this.#random.chance(VALVE_STUCK)) return failed('the valve is stuck', VALVE_MS);
    this.#open = open;
    return succeeded({ open }, VALVE_MS);
  }

  #count(now: number): void {
    const minutes = Math.max(0, now - this.#at) / 60_000;
    if (this.#open) this.#litres += this.#litresAMinute * minutes;
    this.#at = Math.max(this.#at, now);
    if (this.#random.chance(TAP_TURNS))
      this.#litresAMinute = this.#random.chance(0.5) ? 0 : this.#random.between(0.5, LITRES_A_MINUTE_MAX);
  }
}

const LITRES_A_MINUTE_MAX = 12;
const TAP_TURNS = 0.3;
const VALVE_MS = 200;
const VALVE_STUCK = 0.03;
