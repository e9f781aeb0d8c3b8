import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseFields, parseRow, valueOf } from '../broker/store/line-parser.ts';
import { commandLine, fieldOfMetric, telemetryLine } from '../broker/store/line-protocol.ts';
import { rowsOf } from '../broker/store/line-rows.ts';
import type { MetricValue } from '../devices/telemetry.ts';
import { commandOf } from './history-fixtures.ts';

const metric = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_.-]{0,20}$/);
const value = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.boolean(),
  fc.string({ unit: 'binary' }),
  fc.array(fc.constantFrom('"', '\\', '\n', ',', '=', ' ', 'é'), { maxLength: 12 }).map((chars) => chars.join('')),
);
const sample = fc.record({
  device: fc.stringMatching(/^[A-Za-z0-9._-]{1,20}$/),
  values: fc.dictionary(metric, value, { minKeys: 1, maxKeys: 5, noNullPrototype: true }),
  timeNs: fc.bigInt({ min: -(2n ** 63n) + 2n, max: 2n ** 63n - 2n }),
});

function readBack(fields: readonly string[]): Record<string, MetricValue> {
  const values: Record<string, MetricValue> = {};
  for (let i = 0; i < fields.length; i += 2) values[fields[i] ?? ''] = valueOf(fields[i + 1] ?? '');
  return values;
}

const lineOf = ({ device, values, timeNs }: { device: string; values: Record<string, MetricValue>; timeNs: bigint }): string =>
  telemetryLine(device, values, String(timeNs));

describe('line protocol', () => {
  test('what is written is read back the same', () => {
    fc.assert(
      fc.property(sample, (given) => {
        const row = parseRow(lineOf(given));
        expect(row.measurement).toBe('telemetry');
        expect(row.tags).toEqual(['device', given.device]);
        expect(row.timeNs).toBe(String(given.timeNs));
        // A number's text has no sign for zero.
        const expected = Object.entries(given.values).map(([name, set]) => [fieldOfMetric(name), Object.is(set, -0) ? 0 : set]);
        expect(readBack(row.fields)).toEqual(Object.fromEntries(expected));
      }),
    );
  });

  test('a batch falls into its rows, whatever strings hold', () => {
    fc.assert(
      fc.property(fc.array(sample, { maxLength: 8 }), (samples) => {
        const lines = samples.map(lineOf);
        expect(rowsOf(lines.map((line) => `${line}\n`).join(''))).toEqual(lines);
        expect(rowsOf(lines.join('\n'))).toEqual(lines);
      }),
    );
  });

  test('empty rows are left out', () => {
    expect(rowsOf('')).toEqual([]);
    expect(rowsOf('\n\n')).toEqual([]);
    expect(rowsOf('a b=1 1\n\nc d="\n\n" 2\n')).toEqual(['a b=1 1', 'c d="\n\n" 2']);
  });

  test('a row is read in place', () => {
    const text = 'telemetry,device=a x=1 10\ntelemetry,device=b x=2,y=true 20\n';
    expect(parseRow(text, 26, text.length - 1)).toEqual({
      measurement: 'telemetry',
      tags: ['device', 'b'],
      fieldsFrom: 45,
      fieldsTo: 55,
      fields: ['x', '2', 'y', 'true'],
      timeNs: '20',
    });
  });

  test.each([
    ['nothing', ''],
    ['no fields', 'telemetry,device=a 1'],
    ['no time', 'telemetry,device=a x=1'],
    ['a time with a point', 'telemetry,device=a x=1 1.5'],
    ['a time of 20 digits', 'telemetry,device=a x=1 10000000000000000000'],
    ['a tag without a value', 'telemetry,device x=1 1'],
    ['a field without a name', 'telemetry,device=a =1 1'],
    ['a field without a value', 'telemetry,device=a x= 1'],
    ['a string without an end', 'telemetry,device=a x="abc\\" 1'],
    ['a string with a tail', 'telemetry,device=a x="abc"d 1'],
    ['a bare word', 'telemetry,device=a x=abc 1'],
    ['not a number', 'telemetry,device=a x=NaN 1'],
    ['something after the time', 'telemetry,device=a x=1 1 2'],
  ])('%s is no row', (_, row) => {
    expect(() => parseRow(row)).toThrow(SyntaxError);
    expect(() => parseRow(row, 0, row.length, () => 0)).toThrow(SyntaxError);
  });

  test('of a row only as many fields are taken as are wanted', () => {
    const row = 'command,device=a,name=b id="c",state="sent",attempts=3i,late=true 20';
    const wanted = (max: number): readonly string[] =>
      parseRow(row, 0, row.length, (measurement) => (measurement === 'command' ? max : 99)).fields;
    expect(wanted(0)).toEqual([]);
    expect(wanted(2)).toEqual(['id', '"c"', 'state', '"sent"']);
    expect(wanted(9)).toEqual(parseRow(row).fields);
    expect(parseRow(row, 0, row.length, () => 1)).toMatchObject({ fieldsFrom: 24, fieldsTo: 65, timeNs: '20' });
  });

  test('integers are numbers', () => {
    expect(readBack(parseFields('attempts=3i,late=true,id="a b,c=d"'))).toEqual({ attempts: 3, late: true, id: 'a b,c=d' });
  });
});

test("a late word clears the error that stood in the command's row", () => {
  const late = commandLine(commandOf('pump', { state: 'succeeded', late: true }));
  expect(parseFields(late.split(' ')[1] ?? '')).toEqual(expect.arrayContaining(['error', '""']));
  expect(commandLine(commandOf('pump', { state: 'succeeded' }))).not.toContain('error=');
});
