import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { httpDateMs, isNotModified, lastModifiedOf } from '../dashboard-api/conditional.ts';

const CHANGE = Date.parse('2026-05-01T10:00:00.500Z');
const NOW = CHANGE + 60_000;
const validators = { etag: 'W/"abc"', lastChangeAt: CHANGE };

describe('If-None-Match', () => {
  test.each([
    ['W/"abc"', true],
    ['"abc"', true],
    ['"x", W/"abc"', true],
    ['"x","abc","y"', true],
    [', "abc"', true],
    ['*', true],
    ['W/"x"', false],
    ['"ABC"', false],
    ['abc', false],
    ['"abc', false],
    ['"x, W/"abc"', false],
    ['"a b", "abc"', false],
    ['w/"abc"', false],
    ['', false],
    ['"", "x"', false],
    ['"x,abc,y"', false],
  ])('%s gives 304: %s', (given, expected) => {
    expect(isNotModified({ 'if-none-match': given }, validators, NOW)).toBe(expected);
  });

  test('makes If-Modified-Since count for nothing', () => {
    const later = new Date(NOW).toUTCString();
    expect(isNotModified({ 'if-none-match': '"x"', 'if-modified-since': later }, validators, NOW)).toBe(false);
    expect(
      isNotModified({ 'if-none-match': '"abc"', 'if-modified-since': 'Thu, 01 Jan 1970 00:00:00 GMT' }, validators, NOW),
    ).toBe(true);
  });
});

describe('If-Modified-Since', () => {
  test.each([
    ['Fri, 01 May 2026 10:00:01 GMT', true],
    ['Friday, 01-May-26 10:00:01 GMT', true],
    ['Fri May  1 10:00:01 2026', true],
    ['Fri, 01 May 2026 10:00:00 GMT', false],
    ['Thu, 01 Jan 1970 00:00:00 GMT', false],
    ['2026-05-01T10:00:01Z', false],
    ['Fri, 01 May 2026 10:00:01 +0000', false],
    ['Fri, 31 Foo 2026 10:00:01 GMT', false],
    ['yesterday', false],
    ['', false],
  ])('%s gives 304: %s', (given, expected) => {
    expect(isNotModified({ 'if-modified-since': given }, validators, NOW)).toBe(expected);
  });

  test('says nothing while it lies ahead of the clock', () => {
    expect(isNotModified({ 'if-modified-since': 'Fri, 01 May 2100 10:00:01 GMT' }, validators, NOW)).toBe(false);
    expect(isNotModified({ 'if-modified-since': 'Fri, 01 May 2026 10:00:01 GMT' }, validators, CHANGE)).toBe(false);
  });

  test('never hides a change that came after the time was told, and hides none that came before it, once the second has passed', () => {
    const ms = fc.integer({ min: 0, max: 5_000 });
    fc.assert(
      fc.property(ms, ms, ms, ms, (changedAfter, toldAfter, nextAfter, askedAfter) => {
        const changedAt = CHANGE + changedAfter;
        const toldAt = changedAt + toldAfter;
        const told = { 'if-modified-since': lastModifiedOf(changedAt, toldAt) };
        const nextAt = toldAt + nextAfter;
        expect(isNotModified(told, { etag: '', lastChangeAt: nextAt }, nextAt + askedAfter)).toBe(false);
        if (toldAfter > 1_000) expect(isNotModified(told, { etag: '', lastChangeAt: changedAt }, nextAt)).toBe(true);
      }),
      { seed: 20_261_121, numRuns: 2_000 },
    );
  });
});

test('a date of two digits is of this century or the last (RFC 9110, 5.6.7)', () => {
  expect(httpDateMs('Sunday, 06-Nov-94 08:49:37 GMT')).toBe(Date.UTC(1994, 10, 6, 8, 49, 37));
  expect(httpDateMs('Sun, 06 Nov 1994 08:49:37 GMT')).toBe(Date.UTC(1994, 10, 6, 8, 49, 37));
  expect(httpDateMs('Sun Nov  6 08:49:37 1994')).toBe(Date.UTC(1994, 10, 6, 8, 49, 37));
});
