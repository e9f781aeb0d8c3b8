import { describe, expect, test } from 'vitest';
import { parseSenml } from '../devices/senml.ts';
import type { DownlinkError } from '../devices/downlink-error.ts';

const NOW = 1_800_000_000_000;

function fault(pack: unknown): { code: string; at: string | undefined } {
  try {
    parseSenml(pack, NOW);
  } catch (error) {
    const { code, at } = error as DownlinkError;
    return { code, at };
  }
  throw new Error('was taken');
}

describe('the examples of RFC 8428', () => {
  test('5.1.2: a base name and base time, the urn naming the device', () => {
    const pack = [
      { bn: 'urn:dev:ow:10e2073a0108006:', bt: 1.276020076001e9, bu: 'A', bver: 5, n: 'voltage', u: 'V', v: 120.1 },
      { n: 'current', t: -5, v: 1.2 },
      { n: 'current', t: -4, v: 1.3 },
      { n: 'current', v: 1.7 },
    ];
    expect(parseSenml(pack, NOW)).toEqual([
      { ts: 1_276_020_076_001, values: { voltage: 120.1, current: 1.7 } },
      { ts: 1_276_020_071_001, values: { current: 1.2 } },
      { ts: 1_276_020_072_001, values: { current: 1.3 } },
    ]);
  });

  test('5.1.4: strings and booleans', () => {
    const pack = [
      { bn: 'urn:dev:ow:10e2073a01080063:', n: 'temp', u: 'Cel', v: 23.1 },
      { n: 'label', vs: 'Machine Room' },
      { n: 'open', vb: false },
    ];
    expect(parseSenml(pack, NOW)).toEqual([{ values: { temp: 23.1, label: 'Machine Room', open: false } }]);
  });

  test('6: integer labels in CBOR', () => {
    const pack = [
      new Map<number, unknown>([
        [-2, 'urn:dev:ow:10e2073a01080063:'],
        [-3, 1_320_067_464],
        [-4, '%RH'],
        [0, 'humidity'],
        [2, 20],
      ]),
      new Map<number, unknown>([
        [0, 'humidity'],
        [6, 60],
        [2, 20.3],
      ]),
    ];
    expect(parseSenml(pack, NOW)).toEqual([
      { ts: 1_320_067_464_000, values: { humidity: 20 } },
      { ts: 1_320_067_524_000, values: { humidity: 20.3 } },
    ]);
  });
});

describe('times', () => {
  test('below 2^28 are relative to now, also ahead of it', () => {
    expect(parseSenml([{ n: 'a', t: -60, v: 1 }], NOW)[0]?.ts).toBe(NOW - 60_000);
    expect(parseSenml([{ n: 'a', t: 5, v: 1 }], NOW)[0]?.ts).toBe(NOW + 5_000);
  });

  test('of zero are the server’s, each reading of a metric on its own', () => {
    expect(
      parseSenml(
        [
          { n: 'a', v: 1 },
          { n: 'b', v: 2 },
          { n: 'a', v: 3 },
        ],
        NOW,
      ),
    ).toEqual([{ values: { a: 1, b: 2 } }, { values: { a: 3 } }]);
  });

  test('keep their milliseconds', () => {
    expect(parseSenml([{ n: 'a', t: 1_700_000_000.123, v: 1 }], NOW)[0]?.ts).toBe(1_700_000_000_123);
  });
});

describe('names', () => {
  test('are the base name and the name where that is a metric', () => {
    expect(
      parseSenml(
        [
          { bn: 'room1.', n: 'temp', v: 1 },
          { bn: 'hall', v: 2 },
        ],
        NOW,
      ),
    ).toEqual([{ values: { 'room1.temp': 1, hall: 2 } }]);
  });

  test('of two devices in a pack are refused, since a token is one device’s', () => {
    expect(
      fault([
        { bn: 'urn:a:', n: 't', v: 1 },
        { bn: 'urn:b:', n: 't', v: 2 },
      ]),
    ).toEqual({ code: 'invalid_telemetry', at: '[1].n' });
  });

  test('like the prototype’s are names like any other', () => {
    const [sample] = parseSenml([{ n: '__proto__', v: 1 }], NOW);
    expect(Object.entries(sample?.values ?? {})).toEqual([['__proto__', 1]]);
  });
});

test('a base value is added to numbers', () => {
  expect(
    parseSenml(
      [
        { bv: 20, n: 'a', v: 1.5 },
        { n: 'b', v: -1 },
        { n: 'c', vs: 'x' },
      ],
      NOW,
    ),
  ).toEqual([{ values: { a: 21.5, b: 19, c: 'x' } }]);
});

test('records of base fields alone, units and unknown fields are passed over', () => {
  expect(parseSenml([{ bn: 'x.' }, { n: 'a', u: 'Cel', ut: 5, v: 1, colour: 'red' }], NOW)).toEqual([{ values: { 'x.a': 1 } }]);
});

test('more metrics of one time than a sample holds are spread over samples', () => {
  const samples = parseSenml(
    Array.from({ length: 100 }, (_, i) => ({ n: `m${i}`, t: 1_700_000_000, v: i })),
    NOW,
  );
  expect(samples.map(({ ts, values }) => [ts, Object.keys(values).length])).toEqual([
    [1_700_000_000_000, 64],
    [1_700_000_000_000, 36],
  ]);
});

test.each<[string, unknown, string | undefined]>([
  ['no array', {}, undefined],
  ['an empty pack', [], undefined],
  ['a pack without a value', [{ bn: 'a' }], undefined],
  ['a record that is none', [{ n: 'a', v: 1 }, 5], '[1]'],
  ['a name that is no metric', [{ n: 'urn:dev:x', v: 1 }], '[0].n'],
  ['no name at all', [{ v: 1 }], '[0].n'],
  ['two values', [{ n: 'a', v: 1, vs: 'x' }], '[0]'],
  ['a value of another type', [{ n: 'a', v: '1' }], '[0].v'],
  ['a boolean of another type', [{ n: 'a', vb: 1 }], '[0].vb'],
  ['a string too long', [{ n: 'a', vs: 'x'.repeat(1_025) }], '[0].vs'],
  ['octets', [{ n: 'a', vd: 'AA' }], '[0].vd'],
  ['a sum', [{ n: 'a', s: 5 }], '[0].s'],
  ['a newer version', [{ bver: 11, n: 'a', v: 1 }], '[0].bver'],
  ['a field that must be understood', [{ n: 'a', v: 1, danger_: 1 }], '[0].danger_'],
  ['a time of another type', [{ n: 'a', v: 1, t: 'now' }], '[0].t'],
  ['numbers that add up to none', [{ bv: 1e308, n: 'a', v: 1e308 }], '[0].v'],
  ['too many readings', Array.from({ length: 1_001 }, () => ({ n: 'a', v: 1 })), '[1000]'],
])('%s is refused with its place', (_, pack, at) => {
  expect(fault(pack)).toEqual({ code: 'invalid_telemetry', at });
});
