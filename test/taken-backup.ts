import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readBackup, type BackupEntry } from '../broker/backup/backup-file.ts';
import { ADMIN_KEY, type LiveServer } from './live-server.ts';

/** Backups as files, as whoever runs a server takes them. */

/** Fetches one into the folder, and answers its path. */
export async function backUp(server: LiveServer, folder: string, query = ''): Promise<string> {
  const response = await fetch(`${server.url}/v1/backup${query}`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
  const type = response.headers.get('content-type');
  if (response.status !== 200 || type !== 'application/x-ndjson') throw new Error(`backup: ${response.status} ${type}`);
  const file = join(folder, 'backup.ndjson');
  await writeFile(file, Buffer.from(await response.arrayBuffer()));
  return file;
}

export async function entriesOf(file: string): Promise<BackupEntry[]> {
  const entries: BackupEntry[] = [];
  for await (const entry of readBackup(createReadStream(file))) entries.push(entry);
  return entries;
}
