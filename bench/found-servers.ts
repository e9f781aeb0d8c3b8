import { existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Other people's servers, where this machine has them: on the path, or where the tests keep theirs. */
const SYSTEM_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/usr/local/bin', '/opt/homebrew/sbin', '/opt/homebrew/bin'];

export type FoundServer = { readonly path: string; readonly env: NodeJS.ProcessEnv };

export function findServer(name: 'influxd' | 'mosquitto'): FoundServer | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...SYSTEM_FOLDERS];
  const found = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
  if (found !== undefined) return { path: found, env: process.env };
  const kept = keptByTests();
  const path = kept[name];
  if (path == null || !existsSync(path)) return undefined;
  return { path, env: kept.libraryPath ? { ...process.env, LD_LIBRARY_PATH: kept.libraryPath } : process.env };
}

function keptByTests(): { influxd?: string | null; mosquitto?: string | null; libraryPath?: string } {
  try {
    return JSON.parse(readFileSync(join(import.meta.dirname, '../../.cache/servers/paths.json'), 'utf8')) as ReturnType<
      typeof keptByTests
    >;
  } catch {
    return {};
  }
}
