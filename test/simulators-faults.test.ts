import { afterEach, expect, test, vi } from 'vitest';
import { Faults, faultyFetch, type FaultCounts } from '../simulators/fleet/faults.ts';
import { seededRandom } from '../simulators/models/random.ts';

/** What goes wrong in a simulated world is counted where it did. */
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const STREAM = { headers: { accept: 'text/event-stream' } };
const MINUTE_MS = 60_000;

test('an event stream that is open is cut, and counted once', async () => {
  vi.useFakeTimers();
  let signal: AbortSignal | null | undefined;
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (_, init) => {
    signal = init?.signal;
    return new Response('');
  });
  const counts: FaultCounts = new Map();
  const faults = new Faults(seededRandom('cut'), 0.5, counts);
  while (signal === undefined) await faultyFetch(faults)('http://x', STREAM).catch(() => {});
  expect(signal?.aborted).toBe(false);
  vi.advanceTimersByTime(MINUTE_MS);
  expect(signal?.aborted).toBe(true);
  vi.advanceTimersByTime(MINUTE_MS);
  expect(counts.get('streamCut')).toBe(1);
});

test('an event stream that could not be opened is not cut', async () => {
  vi.useFakeTimers();
  vi.spyOn(globalThis, 'fetch').mockRejectedValue(new TypeError('nobody there'));
  const counts: FaultCounts = new Map();
  const faults = new Faults(seededRandom('away'), 0.5, counts);
  for (let i = 0; i < 20; i += 1) await expect(faultyFetch(faults)('http://x', STREAM)).rejects.toThrow(TypeError);
  vi.advanceTimersByTime(MINUTE_MS);
  expect(counts.get('streamCut')).toBeUndefined();
});
