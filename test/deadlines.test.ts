import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Deadlines } from '../broker/deadlines.ts';

/** Enough for what is out of date to be cleared away on the way. */
const SETS = 5_000;
let due: string[];
let deadlines: Deadlines;

beforeEach(() => {
  vi.useFakeTimers({ now: 0 });
  due = [];
  deadlines = new Deadlines({ now: () => Date.now() }, (id) => due.push(id));
});

afterEach(() => {
  deadlines.close();
  vi.useRealTimers();
});

test('each is due once and at its time, however often it was set to and fro', () => {
  deadlines.set('other', 1_500);
  for (let i = 0; i < SETS; i += 1) deadlines.set('one', i % 2 === 0 ? 2_000 : 3_000);
  deadlines.set('one', 2_000);
  vi.advanceTimersByTime(1_999);
  expect(due).toEqual(['other']);
  vi.advanceTimersByTime(1);
  expect(due).toEqual(['other', 'one']);
  vi.advanceTimersByTime(10_000);
  expect(due).toEqual(['other', 'one']);
});

test('many of which most are taken back: those that are left are due in the order of time', () => {
  for (let i = SETS; i > 0; i -= 1) deadlines.set(String(i), i);
  for (let i = SETS; i > 0; i -= 1) if (i % 500 !== 0) deadlines.set(String(i), undefined);
  vi.advanceTimersByTime(SETS + 2_000);
  expect(due).toEqual(['500', '1000', '1500', '2000', '2500', '3000', '3500', '4000', '4500', '5000']);
});
