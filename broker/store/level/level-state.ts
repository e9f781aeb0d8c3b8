import { setTimeout as wait } from 'node:timers/promises';
import type { Clock } from '../../../devices/clock.ts';
import { DownlinkError } from '../../../devices/downlink-error.ts';
import type { Snapshot } from '../snapshot.ts';
import type { Change, Entry, Journal, State } from '../state.ts';
import { LevelJournal } from './level-journal.ts';
import { isOfDamage, openLevel, type Database } from './open-level.ts';
import { snapshotOf } from './snapshot.ts';

/**
 * State on LevelDB with group commit. What is committed while a batch is being written waits and shares the next fsync; a batch is
 * taken up at the end of the event loop's turn, so that one turn's arrivals make one batch.
 */
export type LevelStateOptions = {
  readonly folder: string;
  readonly journalBytesMax: number;
  readonly clock: Clock;
  /** Told one line for each thing that was lost to damage. */
  readonly onDamage?: (line: string) => void;
};

/** Of tables at a start, the newest first: some eight seconds. A million open commands are a tenth of a gigabyte. */
const CHECKED_BYTES_MAX = 2 * 1024 ** 3;
const ASIDE_PREFIX = 'unreadable/';
const PROBE_KEY = 'meta/probe';
const REOPEN_AFTER_MS = 1_000;
/** Most of what is written is journal that is soon forgotten: with LevelDB's own 4 MiB a good part of it was compacted first. */
const WRITE_BUFFER_BYTES = 16 * 1024 * 1024;
const TRIM_WITHIN_MS = 200;
const RIDE_WITHIN_MS = 5;
const ENTRIES_A_READ = 1_000;

/** What is written together shares one promise too: its callers go on in the order in which they came. */
type Batch = {
  /** By key, with the last value of each; undefined where it is deleted. */
  readonly changes: Map<string, string | (() => string) | undefined>;
  readonly lines: string[];
  /** The last row of each thing that has one at a time. */
  readonly latest: Map<string, () => string>;
  lineChars: number;
  isWanted: boolean;
  readonly durable: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
};

function emptyBatch(): Batch {
  let settle: Pick<Batch, 'resolve' | 'reject'> | undefined;
  const durable = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject };
  });
  if (settle === undefined) throw new Error('bug: a promise starts at once');
  // Whoever takes part handles it; perhaps nobody does.
  durable.catch(() => {});
  return { changes: new Map(), lines: [], latest: new Map(), lineChars: 0, isWanted: false, durable, ...settle };
}

export class LevelState implements State {
  readonly #db: Database;
  readonly #journal: LevelJournal;
  readonly #clock: Clock;
  readonly #folder: string;
  readonly #onDamage: (line: string) => void;
  #next: Batch = emptyBatch();
  #trimThrough = 0;
  #trimming: NodeJS.Timeout | undefined;
  #riding: NodeJS.Timeout | undefined;
  #writing: Promise<void> | undefined;
  #failure: DownlinkError | undefined;
  #closed = false;

  private constructor(db: Database, options: LevelStateOptions) {
    this.#db = db;
    this.#clock = options.clock;
    this.#folder = options.folder;
    this.#onDamage = options.onDamage ?? (() => {});
    this.#journal = new LevelJournal(db, options.journalBytesMax, (through) => this.#trim(through));
  }

  /** Opens or makes the folder. Throws the LevelDB error as it is (`LEVEL_LOCKED` as its cause's code when another process holds it). */
  static async open(options: LevelStateOptions): Promise<LevelState> {
    const { onDamage = () => {} } = options;
    const { db, wasDamaged } = await openLevel(options.folder, {
      options: { writeBufferSize: WRITE_BUFFER_BYTES },
      checkedBytesMax: CHECKED_BYTES_MAX,
      onDamage,
    });
    const state = new LevelState(db, options);
    const missing = await state.#journal.load(wasDamaged);
    if (missing !== undefined) onDamage(missing);
    return state;
  }

  get journal(): Journal {
    return this.#journal;
  }

  commit(changes: readonly Change[], entries: readonly Entry[], bound: 'bounded' | 'exempt' = 'bounded'): Promise<void> {
    const chars = charsOf(entries);
    const refusal = this.#refusalOf(bound === 'bounded' ? chars : 0);
    if (refusal !== undefined) return Promise.reject(refusal);
    // All that one turn commits must land in one batch: nothing between here and the end may wait.
    const durable = this.#join(changes, entries, chars);
    this.#next.isWanted = true;
    this.#start();
    return durable;
  }

  ride(changes: readonly Change[], entries: readonly Entry[]): Promise<void> {
    const refusal = this.#refusalOf(0);
    if (refusal !== undefined) return Promise.reject(refusal);
    this.#riding ??= setTimeout(() => void this.commit([], []).catch(() => {}), RIDE_WITHIN_MS);
    return this.#join(changes, entries, charsOf(entries));
  }

  #join(changes: readonly Change[], entries: readonly Entry[], chars: number): Promise<void> {
    const next = this.#next;
    for (const change of changes) {
      if ('put' in change) next.changes.set(change.put, change.value);
      else next.changes.set(change.del, undefined);
    }
    for (const entry of entries) {
      if (typeof entry === 'string') next.lines.push(entry);
      else next.latest.set(entry.of, entry.row);
    }
    next.lineChars += chars;
    return next.durable;
  }

  flush(): Promise<void> {
    return this.commit([], [], 'exempt');
  }

  assertRoom(entries: readonly string[]): void {
    const refusal = this.#refusalOf(charsOf(entries));
    if (refusal !== undefined) throw refusal;
  }

  #refusalOf(chars: number): DownlinkError | undefined {
    if (this.#closed) return new DownlinkError('shutting_down', 'the server is stopping');
    if (this.#failure !== undefined) return this.#failure;
    if (chars === 0 || this.#journal.bytes + this.#next.lineChars + chars <= this.#journal.bytesMax) return undefined;
    this.#journal.refused(chars);
    return new DownlinkError('journal_full', `the journal holds its ${this.#journal.bytesMax} bytes because History is behind`, {
      retryAfterSeconds: 10,
    });
  }

  async get(key: string): Promise<string | undefined> {
    if (this.#failure !== undefined) throw this.#failure;
    return this.#db.get(key);
  }

  async *scan(prefix: string, options: { after?: string; reverse?: boolean } = {}): AsyncIterable<[string, string]> {
    const { after, reverse = false } = options;
    const end = `${prefix}~`;
    const range = reverse
      ? { gte: prefix, lt: after !== undefined && after < end ? after : end, reverse }
      : after !== undefined && after >= prefix
        ? { gt: after, lt: end }
        : { gte: prefix, lt: end };
    const entries = this.#db.iterator(range);
    try {
      for (let read = await entries.nextv(ENTRIES_A_READ); read.length > 0; read = await entries.nextv(ENTRIES_A_READ)) {
        yield* read;
      }
    } finally {
      await entries.close();
    }
  }

  /** All of it as it is at this call, whatever is committed later. */
  snapshot(): Snapshot {
    return snapshotOf(this.#db);
  }

  async check(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    if (this.#trimming !== undefined || this.#riding !== undefined) await this.commit([], []).catch(() => {});
    this.#closed = true;
    while (this.#writing !== undefined) await this.#writing;
    await this.#db.close();
  }

  /** Rides along with the next commit, or goes by itself after a while: sending what is in History again is harmless, an fsync is not free. */
  #trim(through: number): Promise<void> {
    this.#trimThrough = Math.max(this.#trimThrough, through);
    this.#trimming ??= setTimeout(() => void this.commit([], []).catch(() => {}), TRIM_WITHIN_MS).unref();
    return this.#next.durable;
  }

  #start(): void {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined;
      // Somebody may have come between the last look and here.
      if (this.#next.isWanted) this.#start();
    });
  }

  async #writeAll(): Promise<void> {
    await new Promise(setImmediate);
    let written: Batch | undefined;
    while (this.#next.isWanted) {
      // The disk has its next work before those who waited for the last go on.
      const writing = this.#write();
      written?.resolve();
      written = await writing;
    }
    written?.resolve();
  }

  /** Answers the batch, to be resolved, unless it could not be written. */
  async #write(): Promise<Batch | undefined> {
    const batch = this.#next;
    const trimThrough = this.#trimThrough;
    this.#next = emptyBatch();
    clearTimeout(this.#trimming);
    clearTimeout(this.#riding);
    this.#trimming = undefined;
    this.#riding = undefined;
    try {
      for (const row of batch.latest.values()) batch.lines.push(row());
      const lines = batch.lines.length === 0 ? '' : `${batch.lines.join('\n')}\n`;
      const { changes, applied } = await this.#journal.changesFor(lines, trimThrough, this.#clock.now());
      await this.#apply([batch.changes, changes]);
      applied();
      return batch;
    } catch (error) {
      this.#failure = unavailable(error);
      batch.reject(this.#failure);
      // What came while this was being written is refused as well, rather than kept for who knows how long.
      const waiting = this.#next;
      this.#next = emptyBatch();
      waiting.reject(this.#failure);
      await this.#reopen();
      return undefined;
    }
  }

  /** Chained, because an array of operations costs several times as much on its way to LevelDB. */
  async #apply(all: readonly Batch['changes'][]): Promise<void> {
    if (all.every(({ size }) => size === 0)) return;
    const batch = this.#db.batch();
    for (const changes of all) {
      for (const [key, value] of changes) {
        if (value === undefined) batch.del(key);
        else batch.put(key, typeof value === 'string' ? value : value());
      }
    }
    await batch.write({ sync: true });
  }

  async #mend(): Promise<void> {
    await this.#db.close();
    const { db } = await openLevel(this.#folder, { onDamage: this.#onDamage });
    await db.close();
  }

  /** Takes a value that cannot be read out of the way, so that it is met once, and tells of it. */
  async putAside(key: string, value: string): Promise<void> {
    this.#onDamage(`${key} cannot be read and is put aside as ${ASIDE_PREFIX}${key}`);
    await this.commit([{ put: ASIDE_PREFIX + key, value }, { del: key }], []);
  }

  /** After a failed write LevelDB refuses all others until it is opened anew: that is tried until a probe can be written. */
  async #reopen(): Promise<void> {
    while (!this.#closed) {
      await wait(REOPEN_AFTER_MS);
      try {
        await this.#db.close();
        await this.#db.open();
        await this.#db.put(PROBE_KEY, String(this.#clock.now()), { sync: true });
        await this.#journal.load(true);
        this.#failure = undefined;
        return;
      } catch (error) {
        this.#failure = unavailable(error);
        if (isOfDamage(error)) await this.#mend().catch(() => {});
      }
    }
  }
}

/** Of rows that are made only when they are written nothing is known yet: they are of steps, which the bound does not hold up. */
function charsOf(entries: readonly Entry[]): number {
  let chars = 0;
  for (const entry of entries) if (typeof entry === 'string') chars += entry.length + 1;
  return chars;
}

function unavailable(error: unknown): DownlinkError {
  const { message, cause } = error as Error & { cause?: Error };
  return new DownlinkError('storage_unavailable', `the data folder cannot be written: ${cause?.message ?? message}`, {
    retryAfterSeconds: 5,
    cause: error,
  });
}
