import type { Journal } from '../state.ts';
import type { Database } from './open-level.ts';

/**
 * The journal inside the State's LevelDB: one record a group commit, under `journal/{sequence}/{bytes}/{writtenAt}`, so that a scan of keys
 * tells what is there. Writing is the State's: it puts records and trims into its own batches, and keeps the count beside them.
 */
const PREFIX = 'journal/';
const COUNT_KEY = 'journal-count';
const SEQUENCE_DIGITS = 16;
const RECORDS_A_READ = 64;

export class LevelJournal implements Journal {
  readonly #db: Database;
  readonly bytesMax: number;
  #bytes = 0;
  #head = 0;
  /** The newest record that is durable or being written. */
  #lastPut = 0;
  #tail = 0;
  /** Keys of the records that were read last, without a gap, from after `#readAfter` on: what is trimmed is what was read. */
  #read: RecordKey[] = [];
  #readAfter = 0;
  #oldestAt: number | undefined;
  /** Of what was last refused. */
  #refusedBytes = 0;
  #listener: () => void = () => {};
  #loading: Promise<unknown> | undefined;
  readonly #requestTrim: (records: readonly RecordKey[]) => Promise<void>;

  constructor(db: Database, bytesMax: number, requestTrim: (records: readonly RecordKey[]) => Promise<void>) {
    this.#db = db;
    this.bytesMax = bytesMax;
    this.#requestTrim = requestTrim;
  }

  /**
   * Reads where the journal stands. `isDoubtful`: the count may not be that of the records, so these are counted, and the count is put right. Answers in
   * one line what is missing, if anything is: once, since the next start finds the count right.
   */
  async load(isDoubtful: boolean): Promise<string | undefined> {
    const loading = this.#load(isDoubtful);
    this.#loading = loading;
    try {
      return await loading;
    } finally {
      this.#loading = undefined;
    }
  }

  async #load(isDoubtful: boolean): Promise<string | undefined> {
    const count = countOf(await this.#db.get(COUNT_KEY));
    const [first] = await this.#keys(0, 1);
    const [last] = await this.#keys(0, 1, undefined, true);
    const head = last?.sequence ?? 0;
    this.#bytes = count?.bytes ?? 0;
    this.#head = Math.max(count?.head ?? 0, head);
    this.#lastPut = this.#head;
    this.#read = [];
    this.#oldestAt = first?.writtenAt;
    this.#tail = first === undefined ? this.#head : first.sequence - 1;
    const isRight = count !== undefined && (first === undefined ? count.bytes === 0 : count.head === head);
    if (!isDoubtful && (isRight || (count === undefined && first === undefined))) return undefined;
    const records = await this.#keys(0, Number.POSITIVE_INFINITY);
    const missing = `between ${this.#tail + 1} and ${this.#head}: ${records.length} are left`;
    const isMissing = records.length < this.#head - this.#tail;
    this.#bytes = records.reduce((bytes, record) => bytes + record.bytes, 0);
    this.#head = last?.sequence ?? this.#head;
    this.#lastPut = this.#head;
    if (count?.bytes !== this.#bytes || count.head !== this.#head) {
      await this.#db.put(COUNT_KEY, countText(this.#bytes, this.#head), { sync: true });
    }
    const bytesLost = Math.max((count?.bytes ?? 0) - this.#bytes, 0);
    if (records.length === 0 && bytesLost > 0) {
      return `the journal is empty, where ${bytesLost} octets were counted: they are gone, or History has them and the newer count is gone`;
    }
    return isMissing || bytesLost > 0 ? `the journal is missing records ${missing}, ${bytesLost} octets are gone` : undefined;
  }

  /** With what is being written, without what is trimmed. */
  get bytes(): number {
    return this.#bytes;
  }
  get head(): number {
    return this.#head;
  }
  get oldestAt(): number | undefined {
    return this.#bytes === 0 ? undefined : this.#oldestAt;
  }

  get isFull(): boolean {
    return this.#refusedBytes > 0 && this.#bytes + this.#refusedBytes > this.bytesMax;
  }

  /** There was no room for so many octets. */
  refused(bytes: number): void {
    this.#refusedBytes = bytes;
  }

  onAppend(listener: () => void): void {
    this.#listener = listener;
  }

  async read(sequence: number, bytesMax: number): Promise<{ lines: Buffer; through: number } | undefined> {
    const chunks: Buffer[] = [];
    const after = Math.max(sequence, this.#tail);
    let through = 0;
    let bytes = 0;
    const read: RecordKey[] = [];
    const records = this.#db.iterator<string, Buffer>({
      gt: keyAfter(after),
      lt: PREFIX_END,
      valueEncoding: 'buffer',
    });
    try {
      while (bytes < bytesMax) {
        const next = await records.nextv(RECORDS_A_READ);
        if (next.length === 0) break;
        for (const [key, value] of next) {
          if (bytes > 0 && bytes + value.length > bytesMax) {
            bytes = bytesMax;
            break;
          }
          const record = parseKey(key);
          if (chunks.length === 0) this.#oldestAt = record.writtenAt;
          chunks.push(value);
          read.push(record);
          bytes += value.length;
          through = record.sequence;
        }
      }
    } finally {
      await records.close();
    }
    if (this.#read.at(-1)?.sequence === after) {
      this.#read.push(...read);
    } else {
      this.#read = read;
      this.#readAfter = after;
    }
    return chunks.length === 0 ? undefined : { lines: Buffer.concat(chunks), through };
  }

  async trim(through: number): Promise<void> {
    // What is trimmed while it is counted would be counted all the same.
    if (this.#loading !== undefined) await this.#loading;
    const isRead = this.#readAfter <= this.#tail && (this.#read.at(-1)?.sequence ?? 0) >= through;
    const records = isRead
      ? this.#read.filter(({ sequence }) => sequence > this.#tail && sequence <= through)
      : await this.#keys(this.#tail, Number.POSITIVE_INFINITY, through);
    // Whoever trims beside this has what it takes at once.
    const mine = records.filter(({ sequence }) => sequence > this.#tail);
    this.#tail = Math.max(this.#tail, Math.min(through, this.#head));
    this.#read = this.#read.filter(({ sequence }) => sequence > this.#tail);
    this.#readAfter = Math.max(this.#readAfter, this.#tail);
    for (const { bytes } of mine) this.#bytes -= bytes;
    await this.#requestTrim(mine);
  }

  /** The changes that append `lines` and forget the records `trimmed`, by key; `applied` is called once they are durable, in the order of the calls. */
  changesFor(
    lines: string,
    trimmed: readonly RecordKey[],
    now: number,
  ): { changes: Map<string, string | undefined>; applied: () => void } {
    const changes = new Map<string, string | undefined>();
    const hasLines = lines.length > 0;
    if (hasLines) {
      const added = Buffer.byteLength(lines);
      if (this.#bytes === 0) this.#oldestAt = now;
      this.#lastPut += 1;
      this.#bytes += added;
      changes.set(recordKey(this.#lastPut, added, now), lines);
    }
    for (const { key } of trimmed) changes.set(key, undefined);
    const head = this.#lastPut;
    if (changes.size > 0) changes.set(COUNT_KEY, countText(this.#bytes, head));
    const applied = (): void => {
      this.#head = head;
      if (hasLines) this.#listener();
    };
    return { changes, applied };
  }

  async #keys(after: number, limit: number, through = Number.MAX_SAFE_INTEGER, reverse = false): Promise<RecordKey[]> {
    const records: RecordKey[] = [];
    const options = { gt: keyAfter(after), lt: PREFIX_END, reverse, ...(Number.isFinite(limit) && { limit }) };
    for await (const key of this.#db.keys(options)) {
      const record = parseKey(key);
      if (record.sequence > through) break;
      records.push(record);
    }
    return records;
  }
}

export type RecordKey = { key: string; sequence: number; bytes: number; writtenAt: number };

const PREFIX_END = `${PREFIX}~`;

function countText(bytes: number, head: number): string {
  return JSON.stringify({ bytes, head });
}

function countOf(text: string | undefined): { bytes: number; head: number } | undefined {
  try {
    const { bytes, head } = JSON.parse(text ?? '') as { bytes: unknown; head: unknown };
    return Number.isSafeInteger(bytes) && Number.isSafeInteger(head) ? { bytes: Number(bytes), head: Number(head) } : undefined;
  } catch {
    return undefined;
  }
}

function recordKey(sequence: number, bytes: number, writtenAt: number): string {
  return `${PREFIX}${String(sequence).padStart(SEQUENCE_DIGITS, '0')}/${bytes}/${writtenAt}`;
}

function keyAfter(sequence: number): string {
  return `${PREFIX}${String(sequence).padStart(SEQUENCE_DIGITS, '0')}/~`;
}

function parseKey(key: string): RecordKey {
  const [, sequence, bytes, writtenAt] = key.split('/');
  return { key, sequence: Number(sequence), bytes: Number(bytes), writtenAt: Number(writtenAt) };
}
