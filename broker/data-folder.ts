import { constants, existsSync } from 'node:fs';
import { access, chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** The data folder: where it keeps what, and whether it can be used. */

/** A reason why the server cannot start, as the one line that the operator sees. */
export class StartError extends Error {}

export function stateFolder(dataDir: string): string {
  return join(dataDir, 'state');
}

export function historyFolder(dataDir: string): string {
  return join(dataDir, 'history');
}

/** There while a backup is being restored, and after one that was cut short. */
export function restoringFolder(dataDir: string): string {
  return join(dataDir, 'restoring');
}

export function adminKeyFile(dataDir: string): string {
  return join(dataDir, 'admin.key');
}

/** Makes the folder if need be. Throws StartError when it cannot be written, or holds half of a backup (but to whoever is restoring). */
export async function prepareDataFolder(dataDir: string, isRestoring = false): Promise<void> {
  try {
    await makeFolder(dataDir);
    await access(dataDir, constants.W_OK);
  } catch (error) {
    throw new StartError(
      `the data folder ${dataDir} cannot be written (${(error as Error).message}); set DOWNLINK_DATA_DIR to one that can`,
    );
  }
  for (const folder of [stateFolder(dataDir), historyFolder(dataDir)]) await closeToOthers(folder);
  if (!isRestoring && existsSync(restoringFolder(dataDir))) {
    throw new StartError(
      `a restore into ${dataDir} is going on or was cut short; start with --restore FILE again, which begins anew, or set DOWNLINK_DATA_DIR to another folder`,
    );
  }
}

/** Takes the rights away that everybody has to it; those of its group are somebody's will. */
async function closeToOthers(folder: string): Promise<void> {
  const mode = await stat(folder).then(
    (found) => found.mode,
    () => 0,
  );
  // A folder that is not ours to change is used all the same.
  if ((mode & 0o007) !== 0) await chmod(folder, mode & 0o770).catch(() => {});
}

/** Like mkdir's `recursive`, which never returns for some folders that nobody can make (/proc). */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    if (code !== 'ENOENT' || existsSync(dirname(path))) throw error;
    await makeFolder(dirname(path));
    await mkdir(path, { mode: 0o700 });
  }
}

/** The key in `admin.key`, or undefined when there is no such file. */
export async function readAdminKey(dataDir: string): Promise<string | undefined> {
  try {
    return (await readFile(adminKeyFile(dataDir), 'utf8')).trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

export async function writeAdminKey(dataDir: string, key: string): Promise<void> {
  await writeFile(adminKeyFile(dataDir), `${key}\n`, { mode: 0o600 });
}

/** The same failure to open a LevelDB folder in words that say what to do. */
export function startErrorOf(error: unknown, folder: string): StartError {
  const { message, cause } = error as Error & { cause?: { code?: string; message?: string } };
  if (cause?.code === 'LEVEL_LOCKED') {
    return new StartError(
      `the data folder is in use by another process (${folder} is locked); stop it, or set DOWNLINK_DATA_DIR to another folder`,
    );
  }
  return new StartError(`${folder} cannot be opened: ${cause?.message ?? message}`);
}
