import { readAdminKey, writeAdminKey } from '../data-folder.ts';
import { ADMIN_KEY_ID, type OperatorKeys } from './operator-keys.ts';
import { newSecret, OPERATOR_KEY_PREFIX } from './secrets.ts';

/**
 * The first admin key: given by the environment, or made on the first start and written to `admin.key` in the data folder, which only its
 * owner may read.
 */
export async function ensureAdminKey(
  keys: OperatorKeys,
  dataDir: string,
  given: string | undefined,
): Promise<{ key: string | undefined; isNew: boolean }> {
  if (given !== undefined) {
    await keys.setAdmin(given);
    return { key: given, isNew: false };
  }
  const written = await readAdminKey(dataDir);
  if (keys.hasAdmin) {
    // A key that the environment set on an earlier start gives way to the file's; a revoked one does not come back.
    if (written === undefined || !keys.has(ADMIN_KEY_ID)) return { key: undefined, isNew: false };
    await keys.setAdmin(written);
    return { key: written, isNew: false };
  }
  // The file may be left from a State that is gone: its key goes on working.
  const key = written ?? newSecret(OPERATOR_KEY_PREFIX);
  if (written === undefined) await writeAdminKey(dataDir, key);
  await keys.setAdmin(key);
  return { key, isNew: written === undefined };
}
