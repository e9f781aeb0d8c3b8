import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DEFERRED_BEHIND_MAX, pack } from '../devices/packing.ts';

const sizeOf = (bytes: number): number => bytes;

describe('packing', () => {
  test('takes all that there is room for, in order, and says that there is no more', () => {
    expect(pack([5, 3, 4], { limit: 10, maxBytes: 22, envelopeBytes: 10 }, sizeOf)).toEqual({
      taken: [5, 3, 4],
      deferred: [],
      more: false,
    });
  });

  test('ends at the limit, and tells of the rest', () => {
    expect(pack([5, 3, 4], { limit: 1, envelopeBytes: 10 }, sizeOf)).toEqual({
      taken: [5],
      deferred: [
        { item: 3, reason: 'over_limit' },
        { item: 4, reason: 'over_limit' },
      ],
      more: true,
    });
  });

  test('never lets a small one overtake a large one that does not fit any more', () => {
    expect(pack([5, 8, 1], { limit: 10, maxBytes: 20, envelopeBytes: 10 }, sizeOf)).toEqual({
      taken: [5],
      deferred: [
        { item: 8, reason: 'over_max_bytes', bytes: 18, bytesMax: 20 },
        { item: 1, reason: 'over_max_bytes', bytes: 11, bytesMax: 20 },
      ],
      more: true,
    });
  });

  test('passes over one that is too large alone, and does not call it more', () => {
    expect(pack([11, 5, 12], { limit: 10, maxBytes: 20, envelopeBytes: 10 }, sizeOf)).toEqual({
      taken: [5],
      deferred: [
        { item: 11, reason: 'larger_than_max_bytes', bytes: 21, bytesMax: 20 },
        { item: 12, reason: 'larger_than_max_bytes', bytes: 22, bytesMax: 20 },
      ],
      more: false,
    });
  });

  test('does not call it more when all that is past the limit is too large alone', () => {
    expect(pack([5, 11], { limit: 1, maxBytes: 20, envelopeBytes: 10 }, sizeOf)).toMatchObject({ taken: [5], more: false });
  });

  test('looks no further behind the end than it tells of', () => {
    const sizes: number[] = [];
    const items = Array.from({ length: 1_000 }, (_, i) => i);
    const { deferred, more } = pack(items, { limit: 1, maxBytes: 100, envelopeBytes: 10 }, (item) => {
      sizes.push(item);
      return 5;
    });
    expect([deferred.length, sizes.length, more]).toEqual([DEFERRED_BEHIND_MAX, DEFERRED_BEHIND_MAX + 1, true]);
  });

  test('asks for no sizes when there is no bound on them', () => {
    expect(pack([1, 2], { limit: 1, envelopeBytes: 10 }, () => expect.fail('asked for a size')).taken).toEqual([1]);
  });

  test('of whatever: stays within its bounds, keeps the order, drops none, and always gets on', () => {
    const given = fc.tuple(
      fc.array(fc.integer({ min: 1, max: 40 })),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 11, max: 60 }),
    );
    fc.assert(
      fc.property(given, ([items, limit, maxBytes]) => {
        const things = items.map((bytes, at) => ({ bytes, at }));
        const { taken, deferred, more } = pack(things, { limit, maxBytes, envelopeBytes: 10 }, ({ bytes }) => bytes);
        expect(taken.length).toBeLessThanOrEqual(limit);
        expect(taken.reduce((sum, { bytes }) => sum + bytes, 10)).toBeLessThanOrEqual(maxBytes);
        expect([...taken, ...deferred.map(({ item }) => item)].toSorted((a, b) => a.at - b.at)).toEqual(things);
        // What fits into an answer of its own is taken before all of its kind that come later.
        const fitting = things.filter(({ bytes }) => bytes + 10 <= maxBytes);
        expect(taken).toEqual(fitting.slice(0, taken.length));
        expect(more).toBe(fitting.length > taken.length);
        expect(taken.length > 0).toBe(fitting.length > 0);
      }),
      { seed: 20_261_121 },
    );
  });
});
