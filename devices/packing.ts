/**
 * Packs what is queued into one answer, in the order of delivery. The order is strict: the first command that does not fit ends the answer, so that a small
 * one never overtakes a large one that is more urgent. One that would not fit into any answer of this size is passed over: waiting for it would be for ever.
 */
export type PackingBounds = {
  /** Commands at most. */
  readonly limit: number;
  /** Octets of the whole answer at most; unbounded when absent. */
  readonly maxBytes?: number;
  /** Octets of an answer without any command. */
  readonly envelopeBytes: number;
};

/** What a device may ask an answer to be. */
export const LIMIT_MAX = 100;
export const MAX_BYTES_MIN = 64;
export const MAX_BYTES_MAX = 16 * 1024 * 1024;

/** How many behind the end of an answer are told that they wait: a queue is long, and those further back wait for these. */
export const DEFERRED_BEHIND_MAX = 10;

export type PackingDeferral<T> = {
  readonly item: T;
  /** `over_limit`, past the number; `over_max_bytes`, did not fit beside those before it; `larger_than_max_bytes`, not even alone. */
  readonly reason: 'over_limit' | 'over_max_bytes' | 'larger_than_max_bytes';
  /** Octets of an answer with this one alone, where octets were the reason, and what the answer may have. */
  readonly bytes?: number;
  readonly bytesMax?: number;
};

export type Packed<T> = {
  readonly taken: readonly T[];
  /** What was not taken, in order: all that was passed over, and the first behind the end. */
  readonly deferred: readonly PackingDeferral<T>[];
  /** Another answer of this size would hold something of what was left. */
  readonly more: boolean;
};

/** `sizeOf` gives an item's octets in the answer, separator included; it is not called when octets do not matter. */
export function pack<T>(items: Iterable<T>, bounds: PackingBounds, sizeOf: (item: T) => number): Packed<T> {
  const { limit, maxBytes: bytesMax, envelopeBytes } = bounds;
  const taken: T[] = [];
  const deferred: PackingDeferral<T>[] = [];
  let bytesTaken = envelopeBytes;
  let end: 'over_limit' | 'over_max_bytes' | undefined;
  let behind = 0;
  for (const item of items) {
    if (end !== undefined && (behind += 1) >= DEFERRED_BEHIND_MAX) break;
    const itemBytes = bytesMax === undefined ? 0 : sizeOf(item);
    const sizes = bytesMax !== undefined && { bytes: envelopeBytes + itemBytes, bytesMax };
    if (sizes && sizes.bytes > sizes.bytesMax) {
      deferred.push({ item, reason: 'larger_than_max_bytes', ...sizes });
      continue;
    }
    if (end === undefined && taken.length >= limit) end = 'over_limit';
    if (end === undefined && bytesMax !== undefined && bytesTaken + itemBytes > bytesMax) end = 'over_max_bytes';
    if (end === undefined) {
      taken.push(item);
      bytesTaken += itemBytes;
    } else {
      deferred.push({ item, reason: end, ...(end === 'over_max_bytes' && sizes) });
    }
  }
  return { taken, deferred, more: end !== undefined };
}
