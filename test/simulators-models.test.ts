import { describe, expect, test } from 'vitest';
import type { Model, Params } from '../simulators/models/model.ts';
import { Pump } from '../simulators/models/pump.ts';
import { seededRandom, type Random } from '../simulators/models/random.ts';
import { ShelfLabel } from '../simulators/models/shelf-label.ts';
import { Thermostat } from '../simulators/models/thermostat.ts';
import { WaterMeter } from '../simulators/models/water-meter.ts';

const NOW = 1_800_000_000_000;
const MINUTE = 60_000;

/** Never chances upon anything: the model without its mishaps. */
function calm(seed = 1): Random {
  return { ...seededRandom(seed), chance: () => false };
}

function draw(seed: number | string): number[] {
  const random = seededRandom(seed);
  return Array.from({ length: 100 }, () => random.next());
}

function order(model: Model, name: string, params: Params = {}, now = NOW) {
  const act = model.commands[name];
  if (act === undefined) throw new Error(`no command ${name}`);
  return act(params, now);
}

describe('seeded randomness', () => {
  test('the same seed gives the same numbers, another seed others', () => {
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });

  test('a fork does not depend on what was drawn before', () => {
    const one = seededRandom(7);
    one.next();
    expect(one.fork('a').next()).toBe(seededRandom(7).fork('a').next());
    expect(one.fork('a').next()).not.toBe(one.fork('b').next());
  });

  test('numbers spread evenly over their range', () => {
    const random = seededRandom('spread');
    const counts = Array.from({ length: 10 }, () => 0);
    for (let i = 0; i < 20_000; i += 1) {
      const n = random.integer(0, 9);
      counts[n] = (counts[n] ?? 0) + 1;
    }
    for (const count of counts) expect(count).toBeGreaterThan(1_800);
    expect(counts.reduce((a, b) => a + b)).toBe(20_000);
  });
});

test.each([
  ['thermostat', (random: Random) => new Thermostat(random, NOW)],
  ['pump', (random: Random) => new Pump(random)],
  ['shelf label', (random: Random) => new ShelfLabel(random)],
  ['water meter', (random: Random) => new WaterMeter(random, NOW)],
] as const)('a %s does the same again with the same seed', (_name, make) => {
  const run = () => {
    const model: Model = make(seededRandom(3));
    const names = Object.keys(model.commands);
    return Array.from({ length: 50 }, (_, i) => [
      order(model, names[i % names.length] ?? '', {}, NOW + i * MINUTE),
      model.read(NOW + i * MINUTE),
    ]);
  };
  expect(run()).toEqual(run());
});

describe('thermostat', () => {
  test('its temperature goes to the set point and stays there', () => {
    const thermostat = new Thermostat(calm(), NOW);
    expect(order(thermostat, 'set_target', { celsius: 28 })).toMatchObject({ state: 'succeeded', result: { target: 28 } });
    const early = thermostat.read(NOW + 10_000);
    const late = thermostat.read(NOW + 20 * MINUTE);
    expect(early['heating']).toBe(true);
    expect(Math.abs(Number(late['temperature']) - 28)).toBeLessThan(0.5);
    expect(Number(early['temperature'])).toBeLessThan(Number(late['temperature']));
    expect(late['target']).toBe(28);
  });

  test('rejects what is no temperature or out of range, and keeps its set point', () => {
    const thermostat = new Thermostat(calm(), NOW);
    const { target } = thermostat.read(NOW);
    for (const celsius of ['warm', 4.9, 30.1, null])
      expect(order(thermostat, 'set_target', { celsius })).toMatchObject({ state: 'rejected' });
    expect(thermostat.read(NOW)['target']).toBe(target);
    expect(order(thermostat, 'ping')).toMatchObject({ state: 'succeeded', result: 'pong' });
  });
});

describe('pump', () => {
  test('runs, shows pressure, and stops', () => {
    const pump = new Pump(calm());
    expect(pump.read()).toEqual({ running: false, rpm: 0, pressure: 0 });
    expect(order(pump, 'start', { rpm: 1_500 })).toMatchObject({ state: 'succeeded', result: { rpm: 1_500 } });
    expect(pump.read()).toMatchObject({ running: true, rpm: 1_500 });
    expect(pump.read()['pressure']).toBeGreaterThan(2);
    expect(order(pump, 'prime')).toMatchObject({ state: 'rejected' });
    expect(order(pump, 'stop')).toMatchObject({ state: 'succeeded', result: { wasRunning: true } });
    expect(pump.read()).toMatchObject({ running: false, pressure: 0 });
  });

  test('fails now and then, and must then be primed', () => {
    const pump = new Pump({ ...calm(), chance: () => true });
    expect(order(pump, 'start')).toMatchObject({ state: 'failed', message: 'ran dry: prime it again' });
    expect(order(pump, 'start')).toMatchObject({ state: 'failed', message: 'not primed' });
    expect(order(pump, 'prime')).toMatchObject({ state: 'failed' });
    expect(order(pump, 'start', { rpm: 9_999 })).toMatchObject({ state: 'rejected' });
  });
});

describe('shelf label', () => {
  test('shows what it is told, at the cost of some battery', () => {
    const label = new ShelfLabel(calm());
    const before = label.read();
    expect(order(label, 'show', { text: 'apples', price: 1.99 })).toMatchObject({ state: 'succeeded', result: { refreshes: 1 } });
    const after = label.read();
    expect(after).toMatchObject({ text: 'apples', price: 1.99, refreshes: 1 });
    expect(after['battery']).toBeLessThan(Number(before['battery']));
    expect(order(label, 'show', { text: 'apples', price: -1 })).toMatchObject({ state: 'rejected' });
    expect(order(label, 'show', { text: 'x'.repeat(41), price: 1 })).toMatchObject({ state: 'rejected' });
    expect(order(label, 'blank')).toMatchObject({ state: 'succeeded' });
    expect(label.read()).toMatchObject({ text: '', price: 0, refreshes: 2 });
  });
});

describe('water meter', () => {
  test('its litres never go back, and stand still when the valve is shut', () => {
    const meter = new WaterMeter(seededRandom(5), NOW);
    let last = 0;
    for (let i = 1; i <= 200; i += 1) {
      const { litres } = meter.read(NOW + i * MINUTE);
      expect(litres).toBeGreaterThanOrEqual(last);
      last = Number(litres);
    }
    const shut = new WaterMeter(calm(5), NOW);
    expect(order(shut, 'set_valve', { open: false })).toMatchObject({ state: 'succeeded' });
    const { litres } = shut.read(NOW);
    expect(shut.read(NOW + 60 * MINUTE)).toMatchObject({ litres, flow: 0, open: false });
    expect(order(shut, 'set_valve', { open: 'half' })).toMatchObject({ state: 'rejected' });
  });

  test('reads out at once what it shows', () => {
    const meter = new WaterMeter(calm(6), NOW);
    expect(order(meter, 'read_now')).toEqual({ state: 'succeeded', afterMs: 0, result: meter.read(NOW) });
  });
});
