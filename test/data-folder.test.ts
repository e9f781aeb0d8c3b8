import { chmod, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { built } from './built.ts';
import { Victim } from './torture/victim.ts';

/** What the data folder lets others see, by a real server process. */
let dataDir: string;
let victim: Victim;

beforeAll(built);

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'downlink-folder-'));
  await chmod(dataDir, 0o755);
  victim = new Victim(dataDir);
  victim.spawn();
  await victim.ready();
});

afterEach(async () => {
  await victim.kill();
  await rm(dataDir, { recursive: true, force: true });
});

const modeOf = async (path: string): Promise<number> => (await stat(path)).mode & 0o777;

test('all that the server writes into a folder which others may read is for its owner alone', async () => {
  const files = await readdir(dataDir, { recursive: true });
  expect(files.length).toBeGreaterThan(4);
  for (const file of files) expect((await modeOf(join(dataDir, file))) & 0o077, file).toBe(0);
});

test('a state and a history that everybody may read are closed at the next start, but for their group', async () => {
  await victim.kill();
  for (const name of ['state', 'history']) await chmod(join(dataDir, name), 0o755);
  victim.spawn();
  await victim.ready();
  for (const name of ['state', 'history']) expect(await modeOf(join(dataDir, name)), name).toBe(0o750);
});
