import { mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { BackupError, readBackup, type BackupSummary } from './backup-file.ts';
import { readAdminKey } from '../data-folder.ts';

/** `npm run backup`: fetches a backup from the running server and checks it on its way to the disk. Exits with 1 unless it is whole. */
const USAGE = `Usage: npm run backup -- --to FILE

  --to FILE      where to; what is there is replaced once the new one is whole
  --no-history   leave out the embedded History (readings and ended commands)
  --url URL      of the server: http://127.0.0.1:8080, or as DOWNLINK_HOST and DOWNLINK_HTTP_PORT say
  --help         this

The admin key is DOWNLINK_ADMIN_KEY, or the one in admin.key in the data folder (DOWNLINK_DATA_DIR, or ./data).
For a certificate of your own authority set NODE_EXTRA_CA_CERTS to its file.
npm start -- --restore FILE brings a backup back.
`;
const PROGRESS_EVERY_MS = 1_000;
/** The server gives up after as long. */
const SILENCE_MS_MAX = 30_000;
const MB = 1e6;

class UserError extends Error {}

try {
  await main(process.argv.slice(2), process.env);
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  process.stderr.write(`downlink backup: ${error.message}\n`);
  process.exitCode = 1;
}

async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const { to, url, noHistory, help } = optionsOf(args, env);
  if (help) {
    process.stdout.write(USAGE);
    return;
  }
  if (to === undefined) throw new UserError('--to FILE says where the backup goes; --help has the rest');
  const key = env['DOWNLINK_ADMIN_KEY'] || (await readAdminKey(resolve(env['DOWNLINK_DATA_DIR'] || './data')));
  if (key === undefined) {
    throw new UserError('no admin key: set DOWNLINK_ADMIN_KEY, or DOWNLINK_DATA_DIR to the folder that has admin.key');
  }
  const file = resolve(to);
  const part = `${file}.part`;
  const silence = new AbortController();
  const response = await ask(`${url}/v1/backup${noHistory ? '?history=false' : ''}`, key, silence.signal);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  try {
    const { entries, bytes, madeAt, holds } = await save(response, part, silence);
    await rename(part, file);
    process.stdout.write(`${file}: ${entries} entries, ${megabytes(bytes)}, ${holds.join(' and ')} as of ${madeAt}; whole\n`);
  } catch (error) {
    await rm(part, { force: true });
    if (error instanceof BackupError) throw new UserError(`the backup ${error.message}; nothing was written to ${file}`);
    throw new UserError(`the backup broke off (${wordsOf(error)}); nothing was written to ${file}`);
  }
}

type Options = { readonly to: string | undefined; readonly url: string; readonly noHistory: boolean; readonly help: boolean };

function optionsOf(args: readonly string[], env: NodeJS.ProcessEnv): Options {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        to: { type: 'string' },
        url: { type: 'string' },
        'no-history': { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
    const host = env['DOWNLINK_HOST'] || '127.0.0.1';
    const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '[::1]' : host.includes(':') ? `[${host}]` : host;
    const port = env['DOWNLINK_HTTP_PORT'] || '8080';
    const own = port === 'off' ? `https://${reachable}:${env['DOWNLINK_HTTPS_PORT'] || '8443'}` : `http://${reachable}:${port}`;
    const url = values.url ?? own;
    if (!URL.canParse(url)) throw new UserError(`--url ${url}: it is an address such as http://127.0.0.1:8080`);
    return {
      to: values.to,
      url: url.replace(/\/+$/, ''),
      noHistory: values['no-history'] ?? false,
      help: values.help ?? false,
    };
  } catch (error) {
    throw new UserError(`${(error as Error).message.split(/\.\s/)[0]}; --help has them all`, { cause: error });
  }
}

async function ask(url: string, key: string, signal: AbortSignal): Promise<Response> {
  const response = await fetch(url, { headers: { authorization: `Bearer ${key}` }, signal }).catch((error: unknown) => {
    throw new UserError(`${url} cannot be reached: ${wordsOf(error)}; --url says where the server is`);
  });
  if (response.ok) return response;
  const { detail, code } = (await response.json().catch(() => ({}))) as { detail?: string; code?: string };
  throw new UserError(
    `${url} answered ${response.status}${code === undefined ? '' : ` ${code}`}: ${detail ?? 'no reason given'}`,
  );
}

/** Writes what comes and reads it on the way; on the disk, and known to be whole, when it resolves. */
async function save(response: Response, part: string, silence: AbortController): Promise<BackupSummary> {
  const file = await open(part, 'w', 0o600);
  const progress = progressMeter();
  const timer = setTimeout(() => silence.abort(new Error(`nothing came for ${SILENCE_MS_MAX / 1_000} s`)), SILENCE_MS_MAX);
  async function* written(): AsyncGenerator<Uint8Array> {
    for await (const chunk of response.body ?? []) {
      const octets = chunk as Uint8Array;
      timer.refresh();
      await file.writeFile(octets);
      progress.add(octets.length);
      yield octets;
    }
  }
  try {
    const reading = readBackup(written());
    for (;;) {
      const next = await reading.next();
      if (next.done !== true) continue;
      await file.sync();
      return next.value;
    }
  } finally {
    clearTimeout(timer);
    progress.end();
    await file.close();
  }
}

function progressMeter(): { add(bytes: number): void; end(): void } {
  let bytes = 0;
  const { isTTY } = process.stderr;
  const timer = setInterval(() => {
    process.stderr.write(isTTY ? `\r${megabytes(bytes)} ` : `${megabytes(bytes)}\n`);
  }, PROGRESS_EVERY_MS);
  return {
    add: (more) => (bytes += more),
    end: () => {
      clearInterval(timer);
      if (isTTY) process.stderr.write('\r');
    },
  };
}

function megabytes(bytes: number): string {
  return `${(bytes / MB).toFixed(1)} MB`;
}

function wordsOf(error: unknown): string {
  const { message, cause } = error as Error & { cause?: Error };
  return cause?.message || message;
}
