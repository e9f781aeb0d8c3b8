import { maskedCrc32c } from './crc32c.ts';
import { unsnap } from './snappy.ts';
import type { Damaged } from './wal-file.ts';

/**
 * LevelDB's tables (`*.ldb`): data blocks, filter and metaindex, the index of the data blocks, a footer. Each block ends in its type
 * and checksum, which LevelDB writes but does not look at when it reads: a flipped octet comes back as data. So blocks
 * are checked here; one that is damaged gets a type that LevelDB refuses, so that its repair keeps the others.
 */
const FOOTER_BYTES = 48;
const MAGIC = 0xdb4775248b80fb57n;
const TYPE_SNAPPY = 1;
const TYPE_REFUSED = 0xff;

type Handle = { readonly at: number; readonly bytes: number };

export type TableCheck = {
  readonly damaged: readonly Damaged[];
  /** The table with its damaged blocks marked; undefined when its footer or index is gone, and so all of it. */
  readonly marked: Buffer | undefined;
};

export function checkTable(file: Buffer): TableCheck {
  const gone: TableCheck = { damaged: [{ at: 0, bytes: file.length }], marked: undefined };
  let blocks: Handle[];
  try {
    blocks = blocksOf(file);
  } catch (error) {
    if (error instanceof RangeError) return gone;
    throw error;
  }
  const bad = blocks.filter((block) => !isWhole(file, block));
  if (bad.length === 0) return { damaged: [], marked: file };
  const marked = Buffer.from(file);
  for (const { at, bytes } of bad) marked[at + bytes] = TYPE_REFUSED;
  return { damaged: bad, marked };
}

/** All blocks but the index, which is checked. Throws RangeError when the footer or the index is damaged. */
function blocksOf(file: Buffer): Handle[] {
  const footerAt = file.length - FOOTER_BYTES;
  if (footerAt < 0 || file.readBigUInt64LE(file.length - 8) !== MAGIC) throw new RangeError('no footer');
  const footer = new Varints(file, footerAt);
  const metaindex = footer.handle();
  const index = footer.handle();
  if (!isWhole(file, index)) throw new RangeError('no index');
  const dataBlocks = handlesIn(contentsOf(file, index));
  let filters: Handle[] = [];
  if (isWhole(file, metaindex)) filters = handlesIn(contentsOf(file, metaindex));
  return [...dataBlocks, ...filters, metaindex];
}

function isWhole(file: Buffer, { at, bytes }: Handle): boolean {
  const end = at + bytes + 1;
  if (end + 4 > file.length - FOOTER_BYTES) throw new RangeError('a block beyond the end');
  return file.readUInt32LE(end) === maskedCrc32c(file, at, end);
}

function contentsOf(file: Buffer, { at, bytes }: Handle): Buffer {
  const contents = file.subarray(at, at + bytes);
  return file[at + bytes] === TYPE_SNAPPY ? unsnap(contents) : contents;
}

/** The block handles that are the values of an index block. */
function handlesIn(block: Buffer): Handle[] {
  const restarts = block.readUInt32LE(block.length - 4);
  const end = block.length - 4 - restarts * 4;
  const handles: Handle[] = [];
  const entries = new Varints(block, 0);
  while (entries.at < end) {
    entries.next();
    const keyBytes = entries.next();
    const valueBytes = entries.next();
    entries.at += keyBytes;
    const valueAt = entries.at;
    handles.push(entries.handle());
    entries.at = valueAt + valueBytes;
  }
  return handles;
}

class Varints {
  readonly #bytes: Buffer;
  at: number;

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  next(): number {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const octet = this.#bytes[this.at];
      if (octet === undefined || factor > 2 ** 42) throw new RangeError('cut short');
      this.at += 1;
      value += (octet & 0x7f) * factor;
      if (octet < 0x80) return value;
    }
  }

  handle(): Handle {
    return { at: this.next(), bytes: this.next() };
  }
}
