import { rejected, rounded, succeeded, type Model, type Outcome, type Params } from './model.ts';
import type { Random } from './random.ts';

/** An electronic shelf label on a coin cell, asleep most of its life. Commands: `show {text, price}`, `blank`. */
export class ShelfLabel implements Model {
  readonly commands = {
    show: (params: Params): Outcome => this.#show(params),
    blank: (): Outcome => this.#blank(),
  };
  readonly #random: Random;
  #volts: number;
  #text = '';
  #price = 0;
  #refreshes = 0;

  constructor(random: Random) {
    this.#random = random;
    this.#volts = random.between(2.8, 3.1);
  }

  /** Each wake costs a little of the battery. */
  read(): Record<string, number | string> {
    this.#volts = Math.max(VOLTS_EMPTY, this.#volts - VOLTS_A_WAKE);
    return { battery: rounded(this.#volts, 4), text: this.#text, price: this.#price, refreshes: this.#refreshes };
  }

  #show({ text, price }: Params): Outcome {
    if (typeof text !== 'string' || text.length > TEXT_CHARS_MAX)
      return rejected(`text is a string of at most ${TEXT_CHARS_MAX} characters`);
    if (typeof price !== 'number' || price < 0) return rejected('price is a number from 0');
    this.#text = text;
    this.#price = price;
    return this.#refresh();
  }

  #blank(): Outcome {
    this.#text = '';
    this.#price = 0;
    return this.#refresh();
  }

  #refresh(): Outcome {
    this.#refreshes += 1;
    this.#volts = Math.max(VOLTS_EMPTY, this.#volts - VOLTS_A_REFRESH);
    return succeeded({ refreshes: this.#refreshes }, this.#random.integer(REFRESH_MS_MIN, REFRESH_MS_MAX));
  }
}

const TEXT_CHARS_MAX = 40;
const VOLTS_EMPTY = 2;
const VOLTS_A_WAKE = 0.000_01;
const VOLTS_A_REFRESH = 0.000_2;
const REFRESH_MS_MIN = 80;
const REFRESH_MS_MAX = 400;
