import type { Model } from '../models/model.ts';
import { Pump } from '../models/pump.ts';
import type { Random } from '../models/random.ts';
import { ShelfLabel } from '../models/shelf-label.ts';
import { Thermostat } from '../models/thermostat.ts';
import { WaterMeter } from '../models/water-meter.ts';
import { isSleepy, type Way } from './ways.ts';

/** What the fleet is made of, and which metric stands for each kind when readings are counted. */
export const KINDS = ['thermostat', 'pump', 'shelf-label', 'water-meter'] as const;
export type Kind = (typeof KINDS)[number];

/** What the `nth` device of a way is: half of them one thing, half another. */
export function kindOf(way: Way, nth: number): Kind {
  if (isSleepy(way)) return nth % 2 === 0 ? 'shelf-label' : 'water-meter';
  return nth % 2 === 0 ? 'thermostat' : 'pump';
}

export const COUNTED_METRIC: Record<Kind, string> = {
  thermostat: 'temperature',
  pump: 'pressure',
  'shelf-label': 'battery',
  'water-meter': 'litres',
};

export function newModel(kind: Kind, random: Random, now: number): Model {
  switch (kind) {
    case 'thermostat':
      return new Thermostat(random, now);
    case 'pump':
      return new Pump(random);
    case 'shelf-label':
      return new ShelfLabel(random);
    case 'water-meter':
      return new WaterMeter(random, now);
  }
}
