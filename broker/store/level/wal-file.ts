import { maskedCrc32c } from './crc32c.ts';

/**
 * LevelDB's log format (the write-ahead log and the MANIFEST): blocks of 32 KiB, each of fragments `crc u32, length u16, type u8, data`.
 * LevelDB by itself drops the rest of a block after a fragment that is damaged; with that fragment marked as one of no known
 * type, and a right checksum, it skips that one alone.
 */
const BLOCK_BYTES = 32 * 1024;
const HEADER_BYTES = 7;
const TYPE_MAX = 4;
const TYPE_UNKNOWN = 9;

export type Damaged = { readonly at: number; readonly bytes: number };

export type LogCheck = {
  readonly damaged: readonly Damaged[];
  /** Where a last fragment begins that the file is too short for: what a crash leaves of a write that nobody was promised. */
  readonly tornAt: number | undefined;
  /** The file with its damaged fragments marked; the given buffer when there are none. */
  readonly marked: Buffer;
};

export function checkLog(file: Buffer): LogCheck {
  const damaged: Damaged[] = [];
  let tornAt: number | undefined;
  let marked = file;
  for (let blockStart = 0; blockStart < file.length; blockStart += BLOCK_BYTES) {
    const blockEnd = Math.min(blockStart + BLOCK_BYTES, file.length);
    const isLast = blockEnd === file.length;
    let at = blockStart;
    while (at + HEADER_BYTES <= blockEnd) {
      const end = at + HEADER_BYTES + file.readUInt16LE(at + 4);
      const type = file[at + 6] ?? 0;
      if (type === 0 && end === at + HEADER_BYTES && isZero(file, at, blockEnd)) break;
      if (type !== 0 && end <= blockEnd && isWhole(file, at, end)) {
        at = end;
        continue;
      }
      const resumed = nextFragment(file, at + HEADER_BYTES, blockEnd);
      if (resumed === undefined && isLast && end > blockEnd && type <= TYPE_MAX) {
        tornAt = at;
        break;
      }
      const skipped = (resumed ?? blockEnd) - at;
      if (marked === file) marked = Buffer.from(file);
      mark(marked, at, skipped);
      damaged.push({ at, bytes: skipped });
      at += skipped;
    }
    if (isLast && tornAt === undefined && at < blockEnd && !isZero(file, at, blockEnd)) tornAt = at;
  }
  return { damaged, tornAt, marked };
}

function isWhole(file: Buffer, at: number, end: number): boolean {
  return file.readUInt32LE(at) === maskedCrc32c(file, at + 6, end);
}

/** The next place in the block where a whole fragment begins: the damage may be in a length. */
function nextFragment(file: Buffer, from: number, blockEnd: number): number | undefined {
  for (let at = from; at + HEADER_BYTES <= blockEnd; at += 1) {
    const type = file[at + 6] ?? 0;
    const end = at + HEADER_BYTES + file.readUInt16LE(at + 4);
    if (type >= 1 && type <= TYPE_MAX && end <= blockEnd && isWhole(file, at, end)) return at;
  }
  return undefined;
}

function mark(file: Buffer, at: number, bytes: number): void {
  file.writeUInt16LE(bytes - HEADER_BYTES, at + 4);
  file[at + 6] = TYPE_UNKNOWN;
  file.writeUInt32LE(maskedCrc32c(file, at + 6, at + bytes), at);
}

function isZero(file: Buffer, from: number, to: number): boolean {
  for (let i = from; i < to; i += 1) if (file[i] !== 0) return false;
  return true;
}
