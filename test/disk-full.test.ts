import { execFileSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { LevelState } from '../broker/store/level/level-state.ts';

/** A file system of a few megabytes, where the machine lets us have one. */
function smallFileSystem(): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'downlink-small-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', folder], { stdio: 'ignore' });
    return folder;
  } catch {
    return undefined;
  }
}

const folder = smallFileSystem();

describe.skipIf(folder === undefined)('a full disk', () => {
  test('refuses commits with storage_unavailable, takes them again when there is room, and keeps all it acknowledged', async () => {
    if (folder === undefined) return;
    const open = (): Promise<LevelState> =>
      LevelState.open({ folder: join(folder, 'state'), journalBytesMax: 1e9, clock: { now: () => Date.now() } });
    let state = await open();
    const acknowledged: string[] = [];
    const commit = async (key: string): Promise<void> => {
      await state.commit([{ put: key, value: 'v'.repeat(1_000) }], [`m f="${'x'.repeat(1_000)}" 1`]);
      acknowledged.push(key);
    };
    try {
      await commit('before');
      const filler = join(folder, 'filler');
      await writeFile(filler, Buffer.alloc(64 * 1024 * 1024)).catch(() => {});
      let refusal: unknown;
      for (let i = 0; refusal === undefined; i += 1) await commit(`while-full-${i}`).catch((error: unknown) => (refusal = error));
      expect(refusal).toMatchObject({ code: 'storage_unavailable', retryAfterSeconds: 5 });
      await expect(state.check()).rejects.toMatchObject({ code: 'storage_unavailable' });

      await rm(filler);
      for (;;) {
        const isBack = await commit('after').then(
          () => true,
          () => false,
        );
        if (isBack) break;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      await state.check();
      await state.close();
      state = await open();
      for (const key of acknowledged) expect(await state.get(key), key).toBeDefined();
    } finally {
      await state.close();
      execFileSync('umount', [folder]);
    }
  });
});
