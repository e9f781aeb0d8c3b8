import { adminKeyFile, readAdminKey, writeAdminKey } from '../data-folder.ts';
import type { OperatorKeys } from './operator-keys.ts';
import { newSecret, OPERATOR_KEY_PREFIX } from './secrets.ts';

/**
 * The first admin key: given by the environment, or made on the first start and written to `admin.key` in the data folder, which only its
 * owner may read.
 */
export async function ensureAdminKey(
  keys: OperatorKeys,
  dataDir: string,
  given: string | undefined,
): Promise<{ key: string | undefined; isNew: boolean; file: string }> {
  const file = adminKeyFile(dataDir);
  if (given !== undefined) {
    await keys.setAdmin(given);
    return { key: given, isNew: false, file };
  }
  const written = await readAdminKey(dataDir);
  const hasAdmin = keys.list({ limit: Number.MAX_SAFE_INTEGER }).some(({ role }) => role === 'admin');
  if (hasAdmin) return { key: written, isNew: false, file };
  // The file may be left from a State that is gone: its key goes on working.
  const key = written ?? newSecret(OPERATOR_KEY_PREFIX);
  if (written === undefined) await writeAdminKey(dataDir, key);
  await keys.setAdmin(key);
  return { key, isNew: written === undefined, file };
}

