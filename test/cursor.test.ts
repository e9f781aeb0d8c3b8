import { createHmac } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CURSOR_CHARS, cursorOfText, cursorText, type Cursor, type CursorDigest } from '../devices/cursor.ts';
import { DownlinkError } from '../devices/downlink-error.ts';

const OWNER = { id: 'label', createdAt: 1_767_225_600_000 };
const CURSOR: Cursor = { way: 'http', after: 1_767_225_600_000_000, through: 1_767_225_600_000_007 };
const digest = digestOf('here');
const TEXT = cursorText(OWNER, CURSOR, digest);

function digestOf(secret: string): CursorDigest {
  return (text) => createHmac('sha256', secret).update(text).digest();
}

function refusalOf(text: string, owner = OWNER, by = digest): DownlinkError {
  try {
    cursorOfText(owner, text, by, 'query.since');
  } catch (error) {
    if (error instanceof DownlinkError) return error;
    throw error;
  }
  return expect.fail('the cursor was taken');
}

describe('a cursor', () => {
  test('comes back as it was given, whatever it says', () => {
    const number = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
    fc.assert(
      fc.property(fc.constantFrom('http' as const, 'sse' as const), number, number, (way, after, through) => {
        const text = cursorText(OWNER, { way, after, through }, digest);
        expect(text).toHaveLength(CURSOR_CHARS);
        expect(cursorOfText(OWNER, text, digest, 'since')).toEqual({ way, after, through });
      }),
      { seed: 20_261_121 },
    );
  });

  test.each<[string, DownlinkError]>([
    ['of another device', refusalOf(TEXT, { ...OWNER, id: 'other' })],
    ['of a device that had the id before', refusalOf(TEXT, { ...OWNER, createdAt: OWNER.createdAt - 1 })],
    ['of another installation', refusalOf(TEXT, OWNER, digestOf('there'))],
    ['that is empty', refusalOf('')],
    ['that is a number', refusalOf('1767225600000000')],
    ['cut short', refusalOf(TEXT.slice(0, -1))],
    ['with something behind it', refusalOf(`${TEXT}A`)],
    ['in plain base64', refusalOf(TEXT.replace(/.$/, '+'))],
    ['of a version to come', refusalOf(`I${TEXT.slice(1)}`)],
  ])('%s is refused, and told how to go on', (_, error) => {
    expect(error).toMatchObject({ code: 'invalid_cursor', at: 'query.since' });
    expect(error.message).toMatch(/start again without it/);
  });

  test('is refused when any bit of it was changed', () => {
    const octets = Buffer.from(TEXT, 'base64url');
    for (let bit = 0; bit < octets.length * 8; bit += 1) {
      const changed = Buffer.from(octets);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(refusalOf(changed.toString('base64url')).code).toBe('invalid_cursor');
    }
  });
});
