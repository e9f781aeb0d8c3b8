// Installs the dependencies and builds the program if they are missing or out of date. All words go to stderr.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runQuietly } from './child.mjs';
import { withLock } from './lock.mjs';

/** What the user can do something about: its message is all there is to show. */
export class PrepareError extends Error {}

const INSTALL_STAMP = 'node_modules/.downlink-installed';
const LOCK = '.cache/prepare.lock';
const BUILD_STAMP = 'dist/.downlink-built';

/**
 * Makes `root` ready: dependencies as in package-lock.json, and with `build` the program in dist/. Several processes may do this at
 * once. Throws PrepareError with the tool's output and a way out.
 */
export async function prepare(root, { build }) {
  if (isInstalled(root) && (!build || isBuilt(root))) return;
  await withLock(join(root, LOCK), async () => {
    if (!isInstalled(root)) await install(root);
    if (build && !isBuilt(root)) await compile(root);
  });
}

function isInstalled(root) {
  const wanted = installFingerprint(root);
  if (readText(join(root, INSTALL_STAMP)) === wanted) return true;
  if (!holdsWhatTheLockNames(root)) return false;
  writeFileSync(join(root, INSTALL_STAMP), wanted);
  return true;
}

function installFingerprint(root) {
  return `${hash(readText(join(root, 'package-lock.json')))} ${process.platform} ${process.arch}\n`;
}

/** True when npm itself, called by hand, left just what the lock file names. */
function holdsWhatTheLockNames(root) {
  const installed = readText(join(root, 'node_modules/.package-lock.json'));
  if (installed === undefined) return false;
  const have = JSON.parse(installed).packages;
  const want = JSON.parse(readText(join(root, 'package-lock.json'))).packages;
  return Object.entries(want).every(([path, entry]) => path === '' || entry.optional || have[path]?.version === entry.version);
}

async function install(root) {
  say('Installing the dependencies (npm ci) …');
  const startedAt = performance.now();
  rmSync(join(root, INSTALL_STAMP), { force: true });
  const args = ['ci', '--include=dev', '--loglevel=error', '--no-audit', '--no-fund'];
  const { code, output } = await runQuietly(root, ...npmCommand(args));
  if (code !== 0) {
    throw new PrepareError(
      `${output.trim()}\n\nThe dependencies could not be installed (npm's words are above). ` +
        'Check that npm reaches its registry: `npm ping`, and behind a proxy `npm config set proxy URL`. Then run the command again.',
    );
  }
  writeFileSync(join(root, INSTALL_STAMP), installFingerprint(root));
  say(`Installed in ${seconds(startedAt)}.`);
}

/** The npm that runs us, or the one on the path. */
function npmCommand(args) {
  const own = process.env.npm_execpath;
  if (own?.endsWith('npm-cli.js')) return [process.execPath, [own, ...args]];
  return process.platform === 'win32' ? ['npm.cmd', args, { shell: true }] : ['npm', args];
}

function isBuilt(root) {
  return parseStamp(root)?.hash === sourcesOf(root).hash;
}

/** Builds dist/ if it is out of date; `prepare` comes first. */
export async function build(root) {
  await withLock(join(root, LOCK), async () => {
    if (!isBuilt(root)) await compile(root);
  });
}

async function compile(root) {
  say('Building (tsc) …');
  const startedAt = performance.now();
  const sources = sourcesOf(root);
  const built = parseStamp(root)?.files ?? [];
  rmSync(join(root, BUILD_STAMP), { force: true });
  const present = new Set(sources.files);
  if (built.some((file) => !present.has(file))) rmSync(join(root, 'dist'), { recursive: true, force: true });
  const { code, output } = await runQuietly(root, process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', root]);
  if (code !== 0) throw new PrepareError(`${output.trim()}\n\nThe build failed: see the compiler's errors above.`);
  writeFileSync(join(root, BUILD_STAMP), JSON.stringify(sources));
  say(`Built in ${seconds(startedAt)}.`);
}

function parseStamp(root) {
  const text = readText(join(root, BUILD_STAMP));
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Every source file, and one hash over their contents, the compiler's options and the versions installed. */
function sourcesOf(root) {
  const options = readText(join(root, 'tsconfig.json'));
  const files = JSON.parse(options)
    .include.flatMap((path) => typescriptFiles(root, path))
    .toSorted();
  const sum = createHash('sha256')
    .update(options)
    .update(readText(join(root, 'package-lock.json')));
  for (const file of files) sum.update(`\0${file}\0`).update(readFileSync(join(root, file)));
  return { hash: sum.digest('hex'), files };
}

function typescriptFiles(root, path) {
  const stat = statSync(join(root, path), { throwIfNoEntry: false });
  if (stat === undefined) return [];
  if (stat.isFile()) return [path];
  return readdirSync(join(root, path), { withFileTypes: true }).flatMap((entry) => {
    const inside = `${path}/${entry.name}`;
    if (entry.isDirectory()) return typescriptFiles(root, inside);
    return entry.name.endsWith('.ts') ? [inside] : [];
  });
}

function readText(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
    throw error;
  }
}

function hash(text) {
  return createHash('sha256').update(text).digest('hex');
}

function seconds(startedAt) {
  return `${((performance.now() - startedAt) / 1_000).toFixed(1)} s`;
}

function say(text) {
  process.stderr.write(`${text}\n`);
}
