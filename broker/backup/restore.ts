import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { mkdir, open, rename, rm, rmdir } from 'node:fs/promises';
import type { Clock } from '../../devices/clock.ts';
import type { Audit } from '../audit.ts';
import { BackupError, readBackup, STORE_NAMES, type BackupSummary, type StoreName } from './backup-file.ts';
import { historyFolder, prepareDataFolder, restoringFolder, StartError, startErrorOf, stateFolder } from '../data-folder.ts';
import { assertUnlocked, openLevel, type Database } from '../store/level/open-level.ts';
import { raisedMark, TIME_MARK_KEY } from '../time-mark.ts';

/**
 * Brings a backup back (`--restore FILE`), into a data folder that has no State and no History: what is there is never overwritten.
 *
 * It is written under `restoring/` and put in its place once the end of the file has shown that it is whole. While there is a `restoring/` no server starts, so
 * that a restore which was cut short can only be done again, from the beginning.
 */
export type Restored = BackupSummary & { readonly file: string };

const FOLDER_OF: Record<StoreName, (dataDir: string) => string> = { state: stateFolder, history: historyFolder };
const BATCH_CHARS = 1024 * 1024;
const MICROS_PER_MS = 1_000;

/** Throws StartError when the folder is in use, the file cannot be read or is not whole, or the disk refuses; then nothing is changed. */
export async function restoreBackup(file: string, dataDir: string, clock: Clock): Promise<Restored> {
  await prepareDataFolder(dataDir, true);
  const restoring = restoringFolder(dataDir);
  await clear(dataDir, restoring);
  try {
    await mkdir(restoring, { mode: 0o700 });
    const summary = await writeStores(file, restoring, clock);
    if (!summary.holds.includes('state')) throw new BackupError('has no State');
    // State is last: with it in place only the empty folder is left to take away.
    for (const name of summary.holds.toReversed()) await rename(FOLDER_OF[name](restoring), FOLDER_OF[name](dataDir));
    await syncFolder(dataDir);
    await rmdir(restoring);
    await syncFolder(dataDir);
    return { ...summary, file };
  } catch (error) {
    for (const folder of [...foldersOf(dataDir), restoring]) await rm(folder, { recursive: true, force: true });
    if (error instanceof BackupError) throw new StartError(`${file} ${error.message}; nothing was restored`);
    throw new StartError(`${file} could not be restored (${(error as Error).message}); nothing was`);
  }
}

/** For the audit log: why what it tells has a gap. */
export async function recordRestore(audit: Audit, { madeAt, entries }: Restored): Promise<void> {
  const actor = { kind: 'nobody', id: '', name: '--restore' } as const;
  await audit.write(audit.entryOf({ actor, action: 'backup.restore', target: 'state', details: { madeAt, entries } }));
}

/** The report for people. */
export function restoreReport({ file, madeAt, holds, entries }: Restored): string {
  const history = holds.includes('history') ? ' and of the embedded History' : '';
  return `
Restored from ${file}
  As of          ${madeAt}: ${entries} entries of State${history}
  Came back      commands that have ended since are open again (a device that has carried one out knows it by its id); credentials and devices that were
                 revoked, deleted or replaced since are as they were: revoke them again
  Lost           what was made since: devices, keys, tokens, commands${holds.includes('history') ? ', readings' : ''}
  Admin key      the one of then, or the one that admin.key or DOWNLINK_ADMIN_KEY says
`;
}

/** Makes sure that there is nothing in the way, but for what an earlier restore, cut short, has left. */
async function clear(dataDir: string, restoring: string): Promise<void> {
  if (!existsSync(restoring)) {
    for (const folder of foldersOf(dataDir).filter(hasContent)) {
      throw new StartError(
        `--restore is for an empty data folder, and ${folder} is there; move it away first, or set DOWNLINK_DATA_DIR to another folder`,
      );
    }
    return;
  }
  // No server has started since: what is in place is the backup's as well.
  const left = [...foldersOf(dataDir), ...foldersOf(restoring), restoring];
  for (const folder of left.filter(hasContent)) {
    if (folder === restoring) continue;
    await assertUnlocked(folder).catch((error: unknown) => {
      throw startErrorOf(error, folder);
    });
  }
  for (const folder of left) await rm(folder, { recursive: true, force: true });
}

function foldersOf(parent: string): string[] {
  return STORE_NAMES.map((name) => FOLDER_OF[name](parent));
}

function hasContent(folder: string): boolean {
  return existsSync(folder) && readdirSync(folder).length > 0;
}

async function writeStores(file: string, restoring: string, clock: Clock): Promise<BackupSummary> {
  const stores = new Map<StoreName, Store>();
  try {
    const reading = readBackup(createReadStream(file));
    for (;;) {
      const next = await reading.next();
      if (next.done === true) {
        for (const name of next.value.holds) await storeOf(name);
        const state = await storeOf('state');
        await state.write();
        // No number and no id is given twice, also where this clock is behind the one of then.
        const madeAtMs = Date.parse(next.value.madeAt) || 0;
        const mark = raisedMark(await state.db.get(TIME_MARK_KEY), Math.max(clock.now(), madeAtMs) * MICROS_PER_MS);
        await state.db.put(TIME_MARK_KEY, mark, { sync: true });
        return next.value;
      }
      const { store, key, value } = next.value;
      await (await storeOf(store)).put(key, value);
    }
  } finally {
    for (const store of stores.values()) await store.close();
  }

  async function storeOf(name: StoreName): Promise<Store> {
    const had = stores.get(name);
    if (had !== undefined) return had;
    const { db } = await openLevel(FOLDER_OF[name](restoring));
    const store = new Store(db);
    stores.set(name, store);
    return store;
  }
}

class Store {
  readonly db: Database;
  #operations: { type: 'put'; key: string; value: string }[] = [];
  #chars = 0;

  constructor(db: Database) {
    this.db = db;
  }

  async put(key: string, value: string): Promise<void> {
    this.#operations.push({ type: 'put', key, value });
    this.#chars += key.length + value.length;
    if (this.#chars >= BATCH_CHARS) await this.write();
  }

  async write(): Promise<void> {
    const operations = this.#operations;
    this.#operations = [];
    this.#chars = 0;
    if (operations.length > 0) await this.db.batch(operations, { sync: true });
  }

  async close(): Promise<void> {
    // What is left to write is left only when something went wrong, but for the end of History.
    try {
      await this.write();
    } finally {
      await this.db.close();
    }
  }
}

/** So that the new names are on the disk as well. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
