import { ClassicLevel } from 'classic-level';
import type { Clock } from '../../../devices/clock.ts';
import { DownlinkError } from '../../../devices/downlink-error.ts';
import type { Change, Journal, State } from '../state.ts';
import { LevelJournal, type Database, type Operation } from './level-journal.ts';

/**
 * State on LevelDB with group commit. What is committed while a batch is being written waits and shares the next fsync; a batch is
 * taken up at the end of the event loop's turn, so that one turn's arrivals make one batch.
 */
export type LevelStateOptions = {
  readonly folder: string;
  readonly journalBytesMax: number;
  readonly clock: Clock;
};

type Waiter = { resolve: () => void; reject: (error: Error) => void };
type Batch = { operations: Operation[]; lines: string[]; lineChars: number; waiters: Waiter[] };

const emptyBatch = (): Batch => ({ operations: [], lines: [], lineChars: 0, waiters: [] });

export class LevelState implements State {
  readonly #db: Database;
  readonly #journal: LevelJournal;
  readonly #clock: Clock;
  #next: Batch = emptyBatch();
  #trimThrough = 0;
  #writing: Promise<void> | undefined;
  #failure: DownlinkError | undefined;
  #closed = false;

  private constructor(db: Database, options: LevelStateOptions) {
    this.#db = db;
    this.#clock = options.clock;
    this.#journal = new LevelJournal(db, options.journalBytesMax, (through) => this.#trim(through));
  }

  /** Opens or makes the folder. Throws the LevelDB error as it is (`LEVEL_LOCKED` as its cause's code when another process holds it). */
  static async open(options: LevelStateOptions): Promise<LevelState> {
    const db: Database = new ClassicLevel(options.folder, { keyEncoding: 'utf8', valueEncoding: 'utf8' });
    await db.open();
    const state = new LevelState(db, options);
    await state.#journal.load();
    return state;
  }

  get journal(): Journal {
    return this.#journal;
  }

  commit(changes: readonly Change[], entries: readonly string[], bound: 'bounded' | 'exempt' = 'bounded'): Promise<void> {
    if (this.#closed) return Promise.reject(new DownlinkError('shutting_down', 'the server is stopping'));
    const next = this.#next;
    let chars = 0;
    for (const entry of entries) chars += entry.length + 1;
    if (bound === 'bounded' && chars > 0 && this.#journal.bytes + next.lineChars + chars > this.#journal.bytesMax) {
      return Promise.reject(
        new DownlinkError('journal_full', `the journal holds its ${this.#journal.bytesMax} bytes because History is behind`, {
          retryAfterSeconds: 10,
        }),
      );
    }
    for (const change of changes) {
      next.operations.push(
        'put' in change ? { type: 'put', key: change.put, value: change.value } : { type: 'del', key: change.del },
      );
    }
    for (const entry of entries) next.lines.push(entry);
    next.lineChars += chars;
    return new Promise((resolve, reject) => {
      next.waiters.push({ resolve, reject });
      this.#start();
    });
  }

  async get(key: string): Promise<string | undefined> {
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
    yield* this.#db.iterator(range);
  }

  async check(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    while (this.#writing !== undefined) await this.#writing;
    await this.#db.close();
  }

  #trim(through: number): Promise<void> {
    this.#trimThrough = Math.max(this.#trimThrough, through);
    return this.commit([], []);
  }

  #start(): void {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined;
    });
  }

  async #writeAll(): Promise<void> {
    await new Promise(setImmediate);
    while (this.#next.waiters.length > 0) await this.#write();
  }

  async #write(): Promise<void> {
    const batch = this.#next;
    const trimThrough = this.#trimThrough;
    this.#next = emptyBatch();
    try {
      const lines = batch.lines.length === 0 ? '' : `${batch.lines.join('\n')}\n`;
      const { operations, applied } = await this.#journal.operations(lines, trimThrough, this.#clock.now());
      const all = batch.operations.concat(operations);
      if (all.length > 0) await this.#db.batch(all, { sync: true });
      applied();
      this.#failure = undefined;
      for (const waiter of batch.waiters) waiter.resolve();
    } catch (error) {
      const refusal = new DownlinkError('storage_unavailable', `the data folder cannot be written: ${(error as Error).message}`, {
        retryAfterSeconds: 5,
        cause: error,
      });
      this.#failure = refusal;
      for (const waiter of batch.waiters) waiter.reject(refusal);
    }
  }
}
