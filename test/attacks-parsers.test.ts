import { randomInt } from 'node:crypto';
import { encode } from 'cborg';
import fc, { type Arbitrary } from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseCbor } from '../devices/cbor.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { parseJson } from '../devices/json.ts';
import { parseReport } from '../devices/report.ts';
import { parseSync } from '../devices/sync-message.ts';
import { decodeTelemetry, TELEMETRY_MEDIA_TYPES } from '../devices/telemetry-formats.ts';
import { isMetricName } from '../devices/telemetry.ts';

/** Whatever octets come in, a parser answers with what it promises, or refuses in our words. FUZZ_RUNS sets how many, FUZZ_SEED repeats a run. */
const RUNS = Number(process.env['FUZZ_RUNS'] ?? 5_000);
const SEED = Number(process.env['FUZZ_SEED'] ?? randomInt(2 ** 31));
const RUN_MS_MAX = 60_000 + RUNS * 20;
const MEASURED_MS_MAX = 2_000;

/** Names that mean something to JavaScript, to SenML or to us. */
const names = fc.oneof(
  fc.constantFrom(
    '__proto__',
    'constructor',
    'toString',
    'ts',
    'values',
    'n',
    'v',
    'vs',
    'bn',
    'bt',
    'bver',
    'state',
    'result',
    'id',
  ),
  fc.constantFrom('telemetry', 'reports', 'confirms', 'since', 'progress', 'message', 'temperature', 'vd', 't', 'x_'),
  fc.string({ unit: 'binary', maxLength: 8 }),
);
const leaves = fc.oneof(
  fc.double(),
  fc.integer(),
  fc.boolean(),
  fc.constantFrom(null, -0, 2 ** 53 + 2, 1e308, '', '\u0000', '\ud800', 'succeeded', 'running'),
  fc.string({ unit: 'binary', maxLength: 12 }),
);
const { value: values } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    leaves,
    fc.array(tie('value'), { maxLength: 6 }),
    fc.array(fc.tuple(names, tie('value')), { maxLength: 6 }).map((entries) => Object.fromEntries(entries) as unknown),
  ),
}));

const noise = fc.uint8Array({ maxLength: 200 });
const json = values.map((value) => Buffer.from(JSON.stringify(value)));
const cbor = values.map((value) => Buffer.from(encode(value)));

function brokenIn(octets: Arbitrary<Uint8Array>): Arbitrary<Uint8Array> {
  const places = fc.array(fc.tuple(fc.nat(1_000), fc.nat(255)), { maxLength: 3 });
  return fc.tuple(octets, places, fc.boolean()).map(([whole, changes, isCut]) => {
    const broken = Buffer.from(whole);
    for (const [place, value] of changes) if (broken.length > 0) broken[place % broken.length] = value;
    return isCut ? broken.subarray(0, broken.length - ((changes[0]?.[0] ?? 1) % (broken.length + 1))) : broken;
  });
}

const octets = fc.oneof(noise, json, cbor, brokenIn(json), brokenIn(cbor));

/** Only a refusal of ours may be thrown, with a message and without a cause that nobody thought of. */
function refusedOr<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof DownlinkError) || error.code === 'internal') throw error;
    expect(error.message).not.toBe('');
    return undefined;
  }
}

describe(`fuzzed with FUZZ_SEED=${SEED}`, { timeout: RUN_MS_MAX }, () => {
  process.stdout.write(`seed ${SEED}: FUZZ_SEED=${SEED} repeats it\n`);
  const always = (property: (given: Uint8Array) => void): void =>
    fc.assert(fc.property(octets, property), { numRuns: RUNS, seed: SEED });

  test.each(TELEMETRY_MEDIA_TYPES)('telemetry as %s is samples of finite values by metric name, or refused', (type) => {
    always((given) => {
      const samples = refusedOr(() => decodeTelemetry(type, given, Date.UTC(2026, 10, 21)));
      for (const { ts, values: metrics } of samples ?? []) {
        if (ts !== undefined) expect(Number.isFinite(ts)).toBe(true);
        for (const [metric, value] of Object.entries(metrics)) {
          expect(isMetricName(metric), metric).toBe(true);
          expect(['number', 'boolean', 'string']).toContain(typeof value);
          if (typeof value === 'number') expect(Number.isFinite(value)).toBe(true);
        }
      }
    });
  });

  test.each([
    ['JSON', parseJson],
    ['CBOR', parseCbor],
  ])('reports and one-trip wakes in %s are taken whole or refused', (_, decode) => {
    always((given) => {
      const decoded = refusedOr(() => ({ value: decode(given) }));
      if (decoded === undefined) return;
      refusedOr(() => parseReport(decoded.value));
      refusedOr(() => parseSync(decoded.value));
    });
  });

  test('what was refused or taken has changed no prototype', () => {
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });
});

describe('a few octets that claim to be much', () => {
  test.each([
    ['an array of 2^32 - 1 items', '9affffffff'],
    ['an array of 2^53 items', '9b0020000000000000'],
    ['an array of 2^64 - 1 items', '9bffffffffffffffff'],
    ['a map of 2^32 - 1 entries', 'baffffffff'],
    ['a byte string of 2 GiB', '5a7fffffff'],
    ['a byte string of 2^53 octets', '5b0020000000000000'],
    ['text of 4 GiB', '7affffffff'],
    ['arrays of 2^32 items in each other', '9affffffff'.repeat(1_000)],
    ['arrays of no length in each other', '9f'.repeat(200_000)],
    ['maps in each other', 'a1'.repeat(200_000)],
    ['tags on tags', 'c1'.repeat(200_000)],
    ['byte strings in pieces that do not end', `5f${'4100'.repeat(50_000)}`],
    ['a break without a beginning', 'ff'],
  ])('are refused at once, with the memory of a few octets: %s', (_, hex) => {
    const given = Buffer.from(hex, 'hex');
    const heapBefore = process.memoryUsage().heapUsed;
    const startedAt = performance.now();
    for (const type of ['application/cbor', 'application/senml+cbor'] as const) {
      expect(() => decodeTelemetry(type, given, 0)).toThrow(DownlinkError);
    }
    expect(performance.now() - startedAt).toBeLessThan(MEASURED_MS_MAX);
    expect(process.memoryUsage().heapUsed - heapBefore).toBeLessThan(64 * 1024 ** 2);
  });

  test('are refused for their depth: JSON', () => {
    for (const [open, close] of [
      ['[', ']'],
      ['{"a":', '}'],
    ] as const) {
      const deep = Buffer.from(`${open.repeat(20_000)}1${close.repeat(20_000)}`);
      expect(() => parseJson(deep)).toThrow(DownlinkError);
      expect(() => parseJson(deep.subarray(0, 20_000))).toThrow(DownlinkError);
    }
  });
});
