import { setTimeout as wait } from 'node:timers/promises';
import type { Clock } from '../../../devices/clock.ts';
import { DownlinkError } from '../../../devices/downlink-error.ts';
import type { Snapshot } from '../snapshot.ts';
import type { Change, CommitBound, Entry, Journal, ScanOptions, State } from '../state.ts';
import { charsOf, CommitBatch, Lingering } from './commit-batch.ts';
import { LevelJournal, type RecordKey } from './level-journal.ts';
import { isOfDamage, openLevel, type Database } from './open-level.ts';
import { snapshotOf } from './snapshot.ts';

/**
 * State on LevelDB with group commit. What is committed while a batch is being written waits and shares the next fsync; a batch is
 * taken up at the end of the event loop's turn, so that one turn's arrivals make one batch; at once, where something in it is urgent. LevelDB has one batch
 * at a time: it writes two on threads of their own, in whatever order these come to run.
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
const LINGER_MS = 100;
/** What is relaxed waits for so long, or for so much, while the disk has nothing else to do: an fsync for each of a few readings is what would keep others waiting. */
const GATHER_MS = 2;
const GATHERED_CHARS = 16 * 1024;
const ENTRIES_A_READ = 1_000;

export class LevelState implements State {
  readonly #db: Database;
  readonly #journal: LevelJournal;
  readonly #clock: Clock;
  readonly #folder: string;
  readonly #onDamage: (line: string) => void;
  #next = new CommitBatch();
  #trimmed: RecordKey[] = [];
  #trimming: NodeJS.Timeout | undefined;
  #riding: NodeJS.Timeout | undefined;
  #gathering: NodeJS.Timeout | undefined;
  /** What lingers, by what it is of. */
  readonly #lingering = new Map<string, Lingering>();
  #lingerTimer: NodeJS.Timeout | undefined;
  /** The batch that LevelDB has. */
  #writing: Promise<void> | undefined;
  /** The next batch is taken up at the end of this turn. */
  #isDue = false;
  #isUrgent = false;
  #reopening: Promise<void> | undefined;
  #failure: DownlinkError | undefined;
  #closed = false;

  private constructor(db: Database, options: LevelStateOptions) {
    this.#db = db;
    this.#clock = options.clock;
    this.#folder = options.folder;
    this.#onDamage = options.onDamage ?? (() => {});
    this.#journal = new LevelJournal(db, options.journalBytesMax, (records) => this.#trim(records));
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

  commit(changes: readonly Change[], entries: readonly Entry[], bound: CommitBound = 'bounded', of?: string): Promise<void> {
    const refusal = this.#refusalOf(bound === 'exempt' ? 0 : charsOf(entries));
    if (refusal !== undefined) return Promise.reject(refusal);
    // All that one turn commits must land in one batch: nothing between here and the end may wait.
    const next = this.#next;
    const durable = this.#join(changes, entries, of);
    next.isWanted = true;
    if (bound === 'relaxed' && next.lineChars < GATHERED_CHARS) {
      if (this.#hasRoom) this.#gathering ??= setTimeout(() => this.#schedule(), GATHER_MS);
      return durable;
    }
    if (bound === 'urgent') this.#isUrgent = true;
    this.#schedule();
    return bound === 'urgent' ? next.durableFirst : durable;
  }

  ride(changes: readonly Change[], entries: readonly Entry[], of?: string): Promise<void> {
    const refusal = this.#refusalOf(0);
    if (refusal !== undefined) return Promise.reject(refusal);
    this.#riding ??= setTimeout(() => this.#writeWhatRides(), RIDE_WITHIN_MS);
    return this.#join(changes, entries, of);
  }

  linger(changes: readonly Change[], entries: readonly Entry[], of: string): Promise<void> {
    const refusal = this.#refusalOf(0);
    if (refusal !== undefined) return Promise.reject(refusal);
    let lingering = this.#lingering.get(of);
    if (lingering === undefined) {
      lingering = new Lingering(performance.now());
      this.#lingering.set(of, lingering);
    }
    this.#lingerTimer ??= setTimeout(() => this.#endLingering(), LINGER_MS);
    return lingering.add({ changes, entries });
  }

  flush(): Promise<void> {
    this.#endLingering(Number.POSITIVE_INFINITY);
    return this.commit([], [], 'exempt');
  }

  #join(changes: readonly Change[], entries: readonly Entry[], of: string | undefined): Promise<void> {
    const next = this.#next;
    const lingering = of === undefined ? undefined : this.#lingering.get(of);
    if (of !== undefined && lingering !== undefined) {
      this.#lingering.delete(of);
      next.takeIn(lingering);
    }
    next.join(changes, entries);
    return next.durable;
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

  async *scan(prefix: string, options?: ScanOptions): AsyncIterable<[string, string]> {
    for await (const read of this.scanMany(prefix, options)) yield* read;
  }

  async *scanMany(prefix: string, { after, reverse = false }: ScanOptions = {}): AsyncIterable<[string, string][]> {
    const end = `${prefix}~`;
    const range = reverse
      ? { gte: prefix, lt: after !== undefined && after < end ? after : end, reverse }
      : after !== undefined && after >= prefix
        ? { gt: after, lt: end }
        : { gte: prefix, lt: end };
    const entries = this.#db.iterator(range);
    try {
      for (let read = await entries.nextv(ENTRIES_A_READ); read.length > 0; read = await entries.nextv(ENTRIES_A_READ)) {
        yield read;
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
    await this.flush().catch(() => {});
    this.#closed = true;
    while (this.#writing !== undefined) await this.#writing;
    await this.#reopening;
    await this.#db.close();
  }

  /** Rides along with the next commit, or goes by itself after a while: sending what is in History again is harmless, an fsync is not free. */
  #trim(records: readonly RecordKey[]): Promise<void> {
    this.#trimmed.push(...records);
    this.#trimming ??= setTimeout(() => this.#writeWhatRides(), TRIM_WITHIN_MS).unref();
    return this.#next.durable;
  }

  /** While the disk refuses this does nothing; the next that rides tries anew. */
  #writeWhatRides(): void {
    this.#clearTimers();
    this.commit([], []).catch(() => {});
  }

  #clearTimers(): void {
    clearTimeout(this.#trimming);
    clearTimeout(this.#riding);
    clearTimeout(this.#gathering);
    this.#trimming = undefined;
    this.#riding = undefined;
    this.#gathering = undefined;
  }

  /** Of what has lingered for long enough, or of all. */
  #endLingering(until = performance.now() - LINGER_MS): void {
    clearTimeout(this.#lingerTimer);
    this.#lingerTimer = undefined;
    for (const [of, lingering] of this.#lingering) {
      // The oldest come first.
      if (lingering.since > until) {
        this.#lingerTimer = setTimeout(() => this.#endLingering(), lingering.since - until);
        break;
      }
      this.#lingering.delete(of);
      this.#next.takeIn(lingering);
      this.#next.isWanted = true;
    }
    if (this.#next.isWanted) this.#schedule();
  }

  /** LevelDB may be given another batch. */
  get #hasRoom(): boolean {
    return this.#writing === undefined && this.#reopening === undefined;
  }

  /** What is urgent goes when the code that runs now is done, all else when everything that has arrived was looked at, so that one batch has it. */
  #schedule(): void {
    if (!this.#hasRoom) return;
    if (this.#isUrgent) return queueMicrotask(() => this.#takeUp());
    if (this.#isDue) return;
    this.#isDue = true;
    setImmediate(() => {
      this.#isDue = false;
      this.#takeUp();
    });
  }

  #takeUp(): void {
    if (this.#next.isWanted && this.#hasRoom) this.#write();
  }

  /** Hands the next batch to LevelDB. */
  #write(): void {
    const batch = this.#next;
    this.#next = new CommitBatch();
    this.#isUrgent = false;
    this.#clearTimers();
    this.#writing = this.#written(batch);
  }

  async #written(batch: CommitBatch): Promise<void> {
    let applied: () => void;
    try {
      applied = await this.#put(batch);
    } catch (error) {
      this.#writing = undefined;
      return this.#fail(batch, error);
    }
    this.#writing = undefined;
    applied();
    // The disk has its next work before those who waited for this go on.
    this.#takeUp();
    batch.resolve();
  }

  /** Resolves once it is durable, with what is to be called then. */
  async #put(batch: CommitBatch): Promise<() => void> {
    const trimmed = this.#trimmed;
    this.#trimmed = [];
    const { changes, applied } = this.#journal.changesFor(batch.text(), trimmed, this.#clock.now());
    await this.#apply([batch.changes, changes]);
    return applied;
  }

  #fail(batch: CommitBatch, error: unknown): void {
    this.#failure ??= unavailable(error);
    // What came while this was being written is refused as well, rather than kept for who knows how long.
    this.#endLingering(Number.POSITIVE_INFINITY);
    const waiting = this.#next;
    this.#next = new CommitBatch();
    this.#isUrgent = false;
    batch.reject(this.#failure);
    waiting.reject(this.#failure);
    this.#reopening = this.#reopen().finally(() => {
      this.#reopening = undefined;
      if (this.#next.isWanted) this.#schedule();
    });
  }

  /** Chained, because an array of operations costs several times as much on its way to LevelDB. */
  async #apply(all: readonly CommitBatch['changes'][]): Promise<void> {
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
        // What is still there is counted, and trimmed anew.
        this.#trimmed = [];
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

function unavailable(error: unknown): DownlinkError {
  const { message, cause } = error as Error & { cause?: Error };
  return new DownlinkError('storage_unavailable', `the data folder cannot be written: ${cause?.message ?? message}`, {
    retryAfterSeconds: 5,
    cause: error,
  });
}
