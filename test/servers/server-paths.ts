import { readFileSync } from 'node:fs';

/** The real servers that tests use, as .scripts/test-servers.mjs found or fetched them; null where this machine cannot have one. */
export type ServerPaths = {
  readonly influxd: string | null;
  readonly influx: string | null;
  readonly mosquitto: string | null;
  readonly mosquittoPub: string | null;
  readonly mosquittoSub: string | null;
  /** For LD_LIBRARY_PATH; may be empty. */
  readonly libraryPath: string;
};

const NONE: ServerPaths = {
  influxd: null,
  influx: null,
  mosquitto: null,
  mosquittoPub: null,
  mosquittoSub: null,
  libraryPath: '',
};

export const serverPaths: ServerPaths = read();

/** The environment to start one with. */
export function serverEnvironment(): NodeJS.ProcessEnv {
  const { libraryPath } = serverPaths;
  return libraryPath === '' ? process.env : { ...process.env, LD_LIBRARY_PATH: libraryPath };
}

/** For describe.skipIf: says on stderr what is missing, so that a skip is seen. */
export function isMissing(...names: Exclude<keyof ServerPaths, 'libraryPath'>[]): boolean {
  const missing = names.filter((name) => serverPaths[name] === null);
  if (missing.length > 0) console.warn(`SKIPPED: no ${missing.join(', ')} here; node .scripts/test-servers.mjs tells why`);
  return missing.length > 0;
}

function read(): ServerPaths {
  try {
    return JSON.parse(readFileSync(new URL('../../.cache/servers/paths.json', import.meta.url), 'utf8')) as ServerPaths;
  } catch {
    return NONE;
  }
}
