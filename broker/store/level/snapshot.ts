import type { Snapshot } from '../snapshot.ts';
import type { Database } from './open-level.ts';

const ENTRIES_A_READ = 1_000;
const READ_BYTES = 256 * 1024;

/** The database as it is at this call. */
export function snapshotOf(db: Database): Snapshot {
  // An iterator reads what was there when it was made.
  const entries = db.iterator<string, string>({ highWaterMarkBytes: READ_BYTES, fillCache: false });
  return { next: () => entries.nextv(ENTRIES_A_READ), close: () => entries.close() };
}
