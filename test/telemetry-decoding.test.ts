import { describe, expect, test } from 'vitest';
import { parseJson } from '../devices/json.ts';
import { parseReport } from '../devices/report.ts';
import { parseTelemetry } from '../devices/telemetry.ts';

describe('telemetry messages', () => {
  test('values alone, values with a time, and arrays of either', () => {
    expect(parseTelemetry({ temperature: 21.5, ok: true, mode: 'eco' })).toEqual([
      { values: { temperature: 21.5, ok: true, mode: 'eco' } },
    ]);
    expect(parseTelemetry([{ ts: 1_700_000_000_000, values: { a: 1 } }, { b: 2 }])).toEqual([
      { ts: 1_700_000_000_000, values: { a: 1 } },
      { values: { b: 2 } },
    ]);
  });

  test.each<[string, unknown, string]>([
    ['a number', 5, 'a sample is an object'],
    ['null', null, 'a sample is an object'],
    ['an empty object', {}, 'holds no metric'],
    ['an empty array', [], 'at least one'],
    ['a nested array', [[{ a: 1 }]], '[0]'],
    ['null as a value', { a: null }, 'a:'],
    ['an object as a value', { a: { b: 1 } }, 'a:'],
    ['a bad metric name', { 'two words': 1 }, 'two words:'],
    ['a metric name with a newline', { 'a\nb': 1 }, 'no metric name'],
    ['a long metric name', { ['m'.repeat(65)]: 1 }, 'no metric name'],
    ['a ts without values', { ts: 1, a: 2 }, 'ts:'],
    ['a ts that is text', { ts: '2026', values: { a: 1 } }, 'ts:'],
    ['a field beside values', { ts: 1, values: { a: 1 }, b: 2 }, 'b:'],
    ['a long string', { a: 'x'.repeat(1_025) }, 'a:'],
    ['a string long in octets', { a: 'é'.repeat(513) }, 'a:'],
    ['65 metrics', Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`m${i}`, i])), '65 metrics'],
    ['1,001 readings', Array.from({ length: 1_001 }, () => ({ a: 1 })), '[1000]'],
    ['a fault deep in a batch', [{ a: 1 }, { a: 1 }, { ts: 3, values: { a: [] } }], '[2].values.a'],
  ])('%s is refused with its place', (_, message, place) => {
    expect(() => parseTelemetry(message)).toThrow(
      expect.objectContaining({ code: 'invalid_telemetry', message: expect.stringContaining(place) }),
    );
  });

  test('what is at a bound is taken', () => {
    expect(parseTelemetry(Array.from({ length: 1_000 }, () => ({ a: 1 })))).toHaveLength(1_000);
    expect(parseTelemetry({ [`m${'x'.repeat(63)}`]: 'x'.repeat(1_024) })).toHaveLength(1);
  });
});

describe('JSON', () => {
  const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

  test.each([
    ['cut short', encode('{"a":')],
    ['invalid UTF-8', Uint8Array.of(0x22, 0xff, 0x22)],
    ['empty', encode('')],
    ['half of a surrogate pair in a string', encode(String.raw`{"a":["\ud83d"]}`)],
    ['half of a surrogate pair in a name', encode(String.raw`[{"\uDE00x":1}]`)],
    ['a surrogate pair the wrong way round', encode(String.raw`{"a":"\ude00\ud83d"}`)],
    ['33 levels deep', encode('['.repeat(33) + ']'.repeat(33))],
    ['100,000 levels deep', encode('['.repeat(100_000) + ']'.repeat(100_000))],
  ])('%s is invalid_json', (_, octets) => {
    expect(() => parseJson(octets)).toThrow(expect.objectContaining({ code: 'invalid_json' }));
  });

  test('a surrogate pair in escapes is the character that it means', () => {
    expect(parseJson(encode(String.raw`{"a":"\ud83d\ude00","b":"\\ud83d"}`))).toEqual({ a: '\u{1f600}', b: String.raw`\ud83d` });
  });

  test('32 levels are taken', () => {
    expect(parseJson(encode('['.repeat(32) + ']'.repeat(32)))).toBeInstanceOf(Array);
  });
});

describe('reports', () => {
  test('carry a state, and what goes with it', () => {
    expect(parseReport({ state: 'running', progress: 40, message: 'half way' })).toEqual({
      state: 'running',
      progress: 40,
      message: 'half way',
    });
    expect(parseReport({ state: 'succeeded', result: null })).toEqual({ state: 'succeeded', result: null });
  });

  test.each<[unknown, string | undefined]>([
    [[], undefined],
    [{}, 'state'],
    [{ state: 'done' }, 'state'],
    [{ state: 'running', progress: 101 }, 'progress'],
    [{ state: 'running', progress: '50' }, 'progress'],
    [{ state: 'failed', message: 5 }, 'message'],
    [{ state: 'failed', message: 'x'.repeat(1_025) }, 'message'],
    [{ state: 'failed', why: 'x' }, 'why'],
    [{ state: 'succeeded', result: 'x'.repeat(16_384) }, 'result'],
  ])('%j is refused with the field', (report, at) => {
    expect(() => parseReport(report)).toThrow(expect.objectContaining({ code: 'invalid_report', at }));
  });
});
