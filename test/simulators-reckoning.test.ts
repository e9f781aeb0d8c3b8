import { describe, expect, test } from 'vitest';
import { Histogram } from '../simulators/fleet/histogram.ts';
import { Ledger, type Facts, type Issued } from '../simulators/fleet/ledger.ts';
import { isSettled, reckon, type Found } from '../simulators/fleet/reckoning.ts';

const issued: Issued = { deviceId: 'pump-1', name: 'start', confirm: 'result', mayExpire: false, atMs: 0 };

/** A ledger with one command, and what the server says of it. */
function one(facts: Partial<Omit<Facts, 'id'>>, found: Found | undefined, terms: Partial<Issued> = {}) {
  const ledger = new Ledger();
  Object.assign(ledger.of('c1'), { issued: { ...issued, ...terms }, ...facts });
  return reckon(ledger.issued(), new Map(found === undefined ? [] : [['c1', found]]));
}

function settled(facts: Partial<Omit<Facts, 'id'>>): boolean[] {
  const ledger = new Ledger();
  Object.assign(ledger.of('c1'), { issued, ...facts });
  return [...ledger.issued()].map((command) => isSettled(command, false));
}

const carriedOut = {
  received: 1,
  executions: 1,
  word: { state: 'succeeded', result: { rpm: 5 } },
  wordTaken: true,
  anyReportTaken: true,
} as const;

describe('the reckoning', () => {
  test('is clean when the server shows the word the device gave', () => {
    const reckoning = one(carriedOut, { state: 'succeeded', result: { rpm: 5 } });
    expect(reckoning).toMatchObject({ clean: true, issued: 1, mismatches: [], executedTwice: [] });
    expect(reckoning.states).toEqual([{ state: 'succeeded', expected: 1, found: 1 }]);
  });

  test.each([
    ['another end', carriedOut, { state: 'failed' }],
    ['another result', carriedOut, { state: 'succeeded', result: { rpm: 6 } }],
    ['an open state', carriedOut, { state: 'running' }],
    ['nothing', carriedOut, undefined],
    ['expired, though the device said otherwise', carriedOut, { state: 'expired' }],
    ['superseded, though nothing superseded it', carriedOut, { state: 'superseded' }],
    ['succeeded, though the device never got it', { received: 0 }, { state: 'succeeded' }],
    ['expired, though it had all day', { received: 0 }, { state: 'expired' }],
    ['timed out, though the device never got it', { received: 0 }, { state: 'timed_out' }],
    ['succeeded, though the device never said so', { received: 1, executions: 1, silent: true }, { state: 'succeeded' }],
    ['carried out, though it was cancelled', { ...carriedOut, cancelled: 'yes' }, { state: 'succeeded' }],
  ] as const)('is off when the server shows %s', (_what, facts, found) => {
    const reckoning = one(facts, found);
    expect(reckoning.clean).toBe(false);
    expect(reckoning.mismatches).toMatchObject([{ id: 'c1', deviceId: 'pump-1', name: 'start' }]);
  });

  test.each([
    ['expired, when it had little time and never arrived', { received: 0 }, { mayExpire: true }, 'expired'],
    ['undeliverable, when it never arrived', { received: 0 }, {}, 'undeliverable'],
    ['timed out, when the device never reported', { received: 1, executions: 1, silent: true }, {}, 'timed_out'],
    ['cancelled, when it was, even if the device carried it out', { ...carriedOut, cancelled: 'yes' }, {}, 'cancelled'],
    [
      'ended with its delivery, whatever came after',
      { ...carriedOut, word: { state: 'failed' }, refused: 'command_finished' },
      { confirm: 'delivery' },
      'succeeded',
    ],
    ['timed out, when the word never reached the server', { ...carriedOut, wordTaken: false }, {}, 'timed_out'],
  ] as const)('allows %s', (_what, facts, terms, state) => {
    expect(one(facts, { state }, terms)).toMatchObject({ clean: true, states: [{ state, expected: 1, found: 1 }] });
  });

  test('allows superseded only where a newer command took the key over', () => {
    const ledger = new Ledger();
    for (const id of ['c1', 'c2', 'c3']) Object.assign(ledger.of(id), { issued: { ...issued, key: 'target' } });
    Object.assign(ledger.of('c3'), carriedOut);
    const found = (second: Found['state'], third: Found['state']) =>
      reckon(
        ledger.issued(),
        new Map<string, Found>([
          ['c1', { state: 'superseded' }],
          ['c2', { state: second }],
          ['c3', { state: third, result: { rpm: 5 } }],
        ]),
      );
    expect(found('superseded', 'succeeded').clean).toBe(true);
    expect(found('superseded', 'superseded').mismatches.map(({ id }) => id)).toEqual(['c3']);
  });

  test('is off when a command was executed twice, though all the rest fits', () => {
    const reckoning = one({ ...carriedOut, executions: 2 }, { state: 'succeeded', result: { rpm: 5 } });
    expect(reckoning).toMatchObject({ clean: false, executedTwice: ['c1'], mismatches: [] });
  });

  test('leaves out commands of somebody else', () => {
    const ledger = new Ledger();
    ledger.of('foreign').received = 3;
    expect(reckon(ledger.issued(), new Map())).toMatchObject({ clean: true, issued: 0 });
  });

  test('a command is settled when its end fits and no word is to come', () => {
    expect(settled({ ...carriedOut, seen: 'succeeded' })).toEqual([true]);
    expect(settled({ ...carriedOut, seen: 'running' })).toEqual([false]);
    expect(settled({ ...carriedOut, wordTaken: false, seen: 'timed_out' })).toEqual([false]);
    expect(settled({ received: 1, executions: 1, seen: 'timed_out' })).toEqual([false]);
    expect(settled({ received: 1, executions: 1, silent: true, seen: 'timed_out' })).toEqual([true]);
    expect(settled({ received: 0 })).toEqual([false]);
  });
});

test('percentiles are within two percent', () => {
  const histogram = new Histogram();
  expect(histogram.percentile(0.5)).toBeUndefined();
  for (let ms = 1; ms <= 10_000; ms += 1) histogram.add(ms);
  for (const p of [0.01, 0.5, 0.9, 0.99, 1]) {
    const found = histogram.percentile(p) ?? 0;
    expect(Math.abs(found - p * 10_000) / (p * 10_000)).toBeLessThan(0.02);
  }
});
