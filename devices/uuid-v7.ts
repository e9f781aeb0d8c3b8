import { randomFillSync } from 'node:crypto';
import { v7 } from 'uuid';
import type { Clock } from './clock.ts';

const SEQUENCE_MAX = 0x7fff_ffff;
const RANDOM_BYTES = 16;
/** Random octets are asked for so many ids at a time: asking costs more than they do. */
const IDS_AT_A_TIME = 256;

/**
 * Makes UUIDv7 (RFC 9562, 5.7) whose order is the order of making, also within a millisecond and when the clock steps back.
 */
export function uuidV7Source(clock: Clock): () => string {
  const octets = new Uint8Array(RANDOM_BYTES * IDS_AT_A_TIME);
  let used = octets.length;
  let ms = 0;
  let seq = 0;
  return () => {
    const now = clock.now();
    if (now > ms) {
      ms = now;
      seq = 0;
    } else if (seq >= SEQUENCE_MAX) {
      ms += 1;
      seq = 0;
    } else {
      seq += 1;
    }
    if (used === octets.length) {
      randomFillSync(octets);
      used = 0;
    }
    const random = octets.subarray(used, (used += RANDOM_BYTES));
    return v7({ msecs: ms, seq, random });
  };
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

export function isUuidV7(text: string): boolean {
  return UUID.test(text);
}

/** The millisecond in which a UUIDv7 was made. */
export function uuidV7Ms(id: string): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
}
