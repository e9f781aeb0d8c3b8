import { readdirSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { backupOf, readBackup } from '../broker/backup/backup-file.ts';
import { restoreBackup } from '../broker/backup/restore.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { ADMIN_KEY, LiveServer, TestClock } from './live-server.ts';

/** A backup as a file: of one moment, and told from what is not a whole one. */
const NOW = Date.UTC(2026, 0, 1);
let folder = '';

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-backup-'));
});

afterEach(() => rm(folder, { recursive: true, force: true }));

test('a backup is of one moment: what was committed together is in it together, however long it takes to read', async () => {
  const clock = new TestClock(NOW);
  const state = await LevelState.open({ folder: join(folder, 'state'), journalBytesMax: 1e6, clock });
  const put = (n: number) => state.commit([{ put: 'a', value: `${n}` }, { put: 'z', value: `${n}` }, ...fillerOf(n)], []);
  await put(1);
  const snapshot = state.snapshot();
  const chunks = backupOf([{ name: 'state', snapshot }], { madeAt: '', downlink: '' });
  await chunks.next();
  for (let n = 2; n < 20; n += 1) await put(n);
  let text = '';
  for await (const chunk of chunks) text += chunk.toString();
  expect(text.match(/\["state","[az]","\d+"\]/g)).toEqual(['["state","a","1"]', '["state","z","1"]']);
  await snapshot.close();
  await state.close();

  function fillerOf(n: number): { put: string; value: string }[] {
    return Array.from({ length: 500 }, (_, i) => ({ put: `m/${n}/${i}`, value: 'x'.repeat(500) }));
  }
});

describe('a file that is not a whole backup', () => {
  let whole = Buffer.alloc(0);

  beforeAll(async () => {
    const live = await LiveServer.start();
    await live.createDevice('pump');
    const response = await fetch(`${live.url}/v1/backup`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
    whole = Buffer.from(await response.arrayBuffer());
    await live.close();
  });

  const reading = async (octets: Buffer, chunkBytes = 100): Promise<number> => {
    async function* chunks(): AsyncGenerator<Buffer> {
      for (let at = 0; at < octets.length; at += chunkBytes) yield octets.subarray(at, at + chunkBytes);
    }
    let entries = 0;
    for await (const _ of readBackup(chunks())) entries += 1;
    return entries;
  };

  test('is told from a whole one wherever it is cut', async () => {
    expect(await reading(whole)).toBeGreaterThan(3);
    for (let bytes = 0; bytes < whole.length; bytes += bytes < whole.length - 150 ? 97 : 1) {
      await expect(reading(whole.subarray(0, bytes)), `cut at ${bytes}`).rejects.toThrow(/cut short|empty|no backup/);
    }
  });

  test('is told from a whole one whatever octet of it is another', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: whole.length - 1 }),
        fc.integer({ min: 1, max: 255 }),
        fc.integer({ min: 1, max: 5_000 }),
        async (at, flip, chunkBytes) => {
          const damaged = Buffer.from(whole);
          damaged[at] = (damaged[at] ?? 0) ^ flip;
          await expect(reading(damaged, chunkBytes)).rejects.toThrow(/^(is|has|goes) /);
        },
      ),
      { numRuns: 300 },
    );
  });

  test.each([
    ['joined of two', () => Buffer.concat([whole, whole]), 'goes on after its end'],
    ['empty', () => Buffer.alloc(0), 'is empty'],
    ['another file', () => Buffer.from('{"some":"json"}\n'), "is no backup of Downlink's"],
    ['of a later format', () => Buffer.from(whole.toString().replace('"version":1', '"version":2')), 'use a newer one'],
  ])('%s is refused with a word why, and leaves nothing behind', async (_, octets, word) => {
    const file = join(folder, 'file');
    const dataDir = join(folder, 'data');
    await writeFile(file, octets());
    await expect(restoreBackup(file, dataDir, new TestClock(NOW))).rejects.toThrow(word);
    expect(readdirSync(dataDir)).toEqual([]);
  });

  test('that is not there is refused, and leaves nothing behind', async () => {
    const dataDir = join(folder, 'data');
    await expect(restoreBackup(join(folder, 'nothing'), dataDir, new TestClock(NOW))).rejects.toThrow(/nothing.*ENOENT/);
    expect(readdirSync(dataDir)).toEqual([]);
  });
});
