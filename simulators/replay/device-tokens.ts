import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { UserError } from '../user-error.ts';

/** Tokens of the devices that a replay made, in the data folder beside the admin key, and like it for its owner's eyes alone. */
const FILE = 'simulated-devices.json';

/** The token that is kept for the device at this server; undefined when none is. */
export async function keptToken(dataDir: string, url: string, deviceId: string): Promise<string | undefined> {
  return (await read(dataDir))[slot(url, deviceId)];
}

export async function keepToken(dataDir: string, url: string, deviceId: string, token: string): Promise<void> {
  const path = join(dataDir, FILE);
  const tokens = { ...(await read(dataDir)), [slot(url, deviceId)]: token };
  await mkdir(dataDir, { recursive: true });
  const file = await open(`${path}.new`, 'w', 0o600);
  try {
    await file.writeFile(`${JSON.stringify({ tokens }, undefined, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
}

async function read(dataDir: string): Promise<Record<string, string>> {
  const path = join(dataDir, FILE);
  try {
    const { tokens } = JSON.parse(await readFile(path, 'utf8')) as { tokens?: unknown };
    if (typeof tokens === 'object' && tokens !== null) return tokens as Record<string, string>;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw new UserError(`${path} cannot be read (${(error as Error).message}). Move it away, or pass --token.`, { cause: error });
  }
  throw new UserError(`${path} holds no tokens. Move it away, or pass --token.`);
}

function slot(url: string, deviceId: string): string {
  return `${url} ${deviceId}`;
}
