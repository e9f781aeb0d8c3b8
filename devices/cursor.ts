import { timingSafeEqual } from 'node:crypto';
import { DownlinkError } from './downlink-error.ts';

/**
 * Where a device stands in what was handed over to it, as text that says nothing to the device. A cursor goes out with each answer or event and, given
 * back, says that the device has just that: what carries a hand-over number over `after` and up to `through`, by the cursor's way. What was handed over by
 * other answers, which may have been lost, is not confirmed by it.
 */
export type Cursor = {
  /** The way of the answer: `http` for polls and one-trip wakes, `sse` for event streams. */
  readonly way: CursorWay;
  /** The last hand-over number before the answer, or before the stream began. */
  readonly after: number;
  /** The last hand-over number of the answer, or that of the event. Equal to `after` where nothing was handed over. */
  readonly through: number;
};

export type CursorWay = 'http' | 'sse';

/** A digest of `text` under a secret of this installation, of at least 9 octets. */
export type CursorDigest = (text: string) => Uint8Array;

/** Whom a cursor is for: a device that was deleted and registered anew is another. */
export type CursorOwner = { readonly id: string; readonly createdAt: number };

/** The first octet: version 1, and the way. */
const WAYS: ReadonlyMap<number, CursorWay> = new Map([
  [0x10, 'http'],
  [0x11, 'sse'],
]);
const NUMBER_BYTES = 7;
const DIGEST_BYTES = 9;
const PLACE_BYTES = 1 + 2 * NUMBER_BYTES;
const CURSOR_BYTES = PLACE_BYTES + DIGEST_BYTES;
/** How long a cursor's text is: 24 octets in base64url. */
export const CURSOR_CHARS = 32;
const FORM = /^[A-Za-z0-9_-]{32}$/;

export function cursorText(owner: CursorOwner, { way, after, through }: Cursor, digest: CursorDigest): string {
  const octets = Buffer.alloc(CURSOR_BYTES);
  for (const [first, name] of WAYS) if (name === way) octets[0] = first;
  writeNumber(octets, 1, after);
  writeNumber(octets, 1 + NUMBER_BYTES, through);
  octets.set(sealOf(owner, { way, after, through }, digest), PLACE_BYTES);
  return octets.toString('base64url');
}

/** Throws `invalid_cursor` for text that is no cursor, or one of another device or another installation; `at` names where it was given. */
export function cursorOfText(owner: CursorOwner, text: string, digest: CursorDigest, at: string): Cursor {
  if (!FORM.test(text)) throw wrongCursor('is none of ours', at);
  const octets = Buffer.from(text, 'base64url');
  const way = WAYS.get(octets[0] ?? 0);
  const cursor = way && { way, after: readNumber(octets, 1), through: readNumber(octets, 1 + NUMBER_BYTES) };
  if (cursor === undefined || !timingSafeEqual(sealOf(owner, cursor, digest), octets.subarray(PLACE_BYTES))) {
    throw wrongCursor('is none that this device was given here', at);
  }
  return cursor;
}

/** The refusal of a cursor, which tells how to go on. */
export function wrongCursor(why: string, at: string): DownlinkError {
  const message = `this cursor ${why}; start again without it: what it would have confirmed is handed out again, and repeats are told by their id`;
  return new DownlinkError('invalid_cursor', message, { at });
}

function sealOf({ id, createdAt }: CursorOwner, { way, after, through }: Cursor, digest: CursorDigest): Uint8Array {
  return digest(`cursor ${id} ${createdAt} ${way} ${after} ${through}`).subarray(0, DIGEST_BYTES);
}

/** Numbers up to 2^53: 4 octets of the upper part are never needed. */
function writeNumber(octets: Buffer, offset: number, value: number): void {
  octets.writeUIntBE(Math.floor(value / 2 ** 32), offset, NUMBER_BYTES - 4);
  octets.writeUInt32BE(value % 2 ** 32, offset + NUMBER_BYTES - 4);
}

function readNumber(octets: Buffer, offset: number): number {
  return octets.readUIntBE(offset, NUMBER_BYTES - 4) * 2 ** 32 + octets.readUInt32BE(offset + NUMBER_BYTES - 4);
}
