/** Times for readings that carry none: now, in epoch milliseconds, and never the same one twice: the same time would be the same reading. */
export function uniqueTs(now: () => number = Date.now): () => number {
  let last = 0;
  return () => {
    last = Math.max(now(), last + 1);
    return last;
  };
}
