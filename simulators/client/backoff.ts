/** How long to wait before the next attempt: doubling from `minMs` to `maxMs`, each spread over its upper half so that a fleet does not return as one. */
export function backoffMs(attempt: number, range: { minMs: number; maxMs: number }, random: () => number = Math.random): number {
  const fullMs = Math.min(range.maxMs, range.minMs * 2 ** Math.min(attempt, 30));
  return fullMs * (0.5 + random() / 2);
}

/** Resolves after `ms`, or at once when `signal` is aborted. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}
