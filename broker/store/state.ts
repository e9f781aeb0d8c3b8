import type { Snapshot } from './snapshot.ts';

/**
 * State: what must be known to go on (devices, keys, open commands, idempotency keys) and the journal, in one durable place.
 *
 * Keys are text, `/` between their parts, the first naming the kind: `device/pump-1`. Values are JSON text.
 */
export type Change = { readonly put: string; readonly value: string | (() => string) } | { readonly del: string };

/**
 * A row of line protocol for the journal; or how to make one that takes the place of an earlier row `of` the same, where both are written together. What is
 * a function, here or in a change, is called once, when it is written, and only if nothing later took its place.
 */
export type Entry = string | { readonly of: string; readonly row: () => string };

/** What belongs to something else and is committed together with it: both are there after a crash, or neither is. */
export type Addition = { readonly changes: readonly Change[]; readonly entries: readonly Entry[] };
export const NO_ADDITION: Addition = { changes: [], entries: [] };

export type CommitBound = 'bounded' | 'urgent' | 'relaxed' | 'exempt';

export type ScanOptions = { readonly after?: string; readonly reverse?: boolean };

export interface State {
  readonly journal: Journal;

  /**
   * Applies `changes` and appends `entries` to the journal: all of it or nothing, and durable when the promise resolves. Commits that arrive while one is being written share the next fsync; they resolve in order.
   * Commits made in one turn, with no `await` between them, are one: after a crash all of them are there or none is. Of changes
   * of one key that are written together the last counts.
   * With neither it resolves once all earlier commits are durable. Throws `journal_full` when `entries` would pass the journal's
   * bound (steps of commands already accepted are `exempt`: refusing them would leave the record behind the truth), and
   * `storage_unavailable` when the disk refuses. Two more kinds are bounded: an `urgent` one does not wait for the end of the turn, and resolves
   * before those that are written with it; a `relaxed` one may wait a few milliseconds for others.
   * What lingers `of` the same thing is written with it.
   */
  commit(changes: readonly Change[], entries: readonly Entry[], bound?: CommitBound, of?: string): Promise<void>;

  /** An exempt commit that is in no hurry: it is written with the next one that is, or some milliseconds later by itself. */
  ride(changes: readonly Change[], entries: readonly Entry[], of?: string): Promise<void>;

  /** An exempt commit that will soon be out of date: it is written with the next one `of` the same thing, or a while later by itself. */
  linger(changes: readonly Change[], entries: readonly Entry[], of: string): Promise<void>;

  /** Resolves once all of that is durable, which does not wait any longer. */
  flush(): Promise<void>;

  /**
   * Throws what `commit` of `entries` would be refused with if it came now. What must not be half done, some of it in memory, asks
   * this first and commits in the same turn.
   */
  assertRoom(entries: readonly string[]): void;

  /** What was last committed under `key`. */
  get(key: string): Promise<string | undefined>;

  /** Every key that starts with `prefix`, in order; `after` (exclusive) resumes, `reverse` starts at the end. */
  scan(prefix: string, options?: ScanOptions): AsyncIterable<[key: string, value: string]>;

  /** Like `scan`, many at a time: where there are very many, a step of an iterator for each is a good part of the time. */
  scanMany(prefix: string, options?: ScanOptions): AsyncIterable<readonly [key: string, value: string][]>;

  /** Takes a value that cannot be read out of the way, so that it is met once, and tells of it in one line. */
  putAside(key: string, value: string): Promise<void>;

  /** All of it as it is at this call. */
  snapshot(): Snapshot;

  /** Throws `storage_unavailable` when the last commit could not be written and nothing has been since. */
  check(): Promise<void>;

  /** Writes what is under way, then lets go of the folder. Closing twice is harmless. */
  close(): Promise<void>;
}

/** The durable log between acknowledgement and History: records in order, each some rows of line protocol. */
export interface Journal {
  /**
   * The oldest records after `sequence`, up to about `bytesMax` (at least one record); undefined when there is none.
   * `through` is the sequence number of the last one read.
   */
  read(sequence: number, bytesMax: number): Promise<{ lines: Buffer; through: number } | undefined>;
  /** Forgets all records up to and including `through`: History has them. */
  trim(through: number): Promise<void>;
  readonly bytes: number;
  readonly bytesMax: number;
  /** There is no room for what was last refused for want of it. */
  readonly isFull: boolean;
  /** Sequence number of the newest durable record; 0 when there never was one. */
  readonly head: number;
  /** When the oldest record still here was written, epoch milliseconds. */
  readonly oldestAt: number | undefined;
  /** Calls `listener` after each durable append. One listener. */
  onAppend(listener: () => void): void;
}
