// Finds the real servers and clients that the tests use (InfluxDB, mosquitto), or fetches Debian's packages of them into
// .cache/servers without installing anything. What was found is kept in .cache/servers/paths.json, where the tests look.
//   node .scripts/test-servers.mjs     prints that file; all words go to stderr
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { runQuietly } from './child.mjs';
import { withLock } from './lock.mjs';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const FOLDER = join(ROOT, '.cache/servers');
const PATHS = join(FOLDER, 'paths.json');
const UNPACKED = join(FOLDER, 'root');

/** By their names in paths.json. */
const COMMANDS = {
  influxd: { command: 'influxd', package: 'influxdb' },
  influx: { command: 'influx', package: 'influxdb-client' },
  mosquitto: { command: 'mosquitto', package: 'mosquitto' },
  mosquittoPub: { command: 'mosquitto_pub', package: 'mosquitto-clients' },
  mosquittoSub: { command: 'mosquitto_sub', package: 'mosquitto-clients' },
};

/**
 * Answers `{influxd, influx, mosquitto, mosquittoPub, mosquittoSub, libraryPath}`: the paths of the programs, null for one that cannot be
 * had here, and what LD_LIBRARY_PATH must be for them (it may be empty). Says what it fetches, or why it cannot.
 */
export async function ensureTestServers() {
  return knownPaths() ?? withLock(join(FOLDER, 'lock'), async () => knownPaths() ?? find());
}

/** What was found before, if all of it is still there. */
function knownPaths() {
  try {
    const paths = JSON.parse(readFileSync(PATHS, 'utf8'));
    return Object.keys(COMMANDS).every((name) => paths[name] && isProgram(paths[name])) ? paths : undefined;
  } catch {
    return undefined;
  }
}

async function find() {
  const paths = Object.fromEntries(Object.entries(COMMANDS).map(([name, { command }]) => [name, onPath(command)]));
  paths.libraryPath = '';
  const missing = Object.keys(COMMANDS).filter((name) => paths[name] === null);
  if (missing.length > 0) {
    try {
      Object.assign(paths, await fetchPrograms(missing));
    } catch (error) {
      const names = missing.map((name) => COMMANDS[name].command).join(', ');
      say(`${error.message}\nWithout ${names} the tests that need them are SKIPPED. Put them on the PATH to run all tests.`);
    }
  }
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(PATHS, `${JSON.stringify(paths, null, 2)}\n`);
  return paths;
}

function onPath(command) {
  // mosquitto is in sbin, which is not on everyone's path.
  const folders = (process.env.PATH ?? '').split(delimiter).concat('/usr/sbin', '/usr/local/sbin');
  return folders.map((folder) => join(folder, command)).find(isProgram) ?? null;
}

function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

async function fetchPrograms(missing) {
  if (onPath('apt-get') === null || onPath('dpkg-deb') === null) {
    throw new Error('InfluxDB and mosquitto are fetched with apt-get, and this system has none.');
  }
  const startedAt = performance.now();
  const packages = [...new Set(missing.map((name) => COMMANDS[name].package))];
  say(`Fetching ${packages.join(', ')} for the tests (apt-get download; nothing is installed) …`);
  const partial = `${UNPACKED}.partial`;
  rmSync(partial, { recursive: true, force: true });
  const apt = await unpackWithAnyLists(packages, partial);
  if ((await missingLibraries(partial)).length > 0) {
    await unpack(apt, await absentLibraryPackages(apt, packages), partial);
    const still = await missingLibraries(partial);
    if (still.length > 0) throw new Error(`Debian's packages lack libraries that they need here: ${still.join(', ')}.`);
  }
  rmSync(UNPACKED, { recursive: true, force: true });
  renameSync(partial, UNPACKED);
  say(`Fetched in ${((performance.now() - startedAt) / 1_000).toFixed(1)} s.`);
  const found = missing.map((name) => [name, programIn(UNPACKED, COMMANDS[name].command)]);
  return { ...Object.fromEntries(found), libraryPath: libraryFolders(UNPACKED).join(':') };
}

/** With the system's package lists; where these are missing or out of date, with lists of our own. Answers apt's options that worked. */
async function unpackWithAnyLists(packages, into) {
  const system = [];
  try {
    await unpack(system, packages, into);
    return system;
  } catch {
    say('Updating the package lists (in a folder of their own) …');
  }
  const state = join(FOLDER, 'apt');
  mkdirSync(join(state, 'lists/partial'), { recursive: true });
  mkdirSync(join(state, 'cache/archives/partial'), { recursive: true });
  const settings = [`Dir::State::lists=${state}/lists`, `Dir::Cache=${state}/cache`, 'APT::Sandbox::User=root'];
  const own = settings.flatMap((setting) => ['-o', setting]);
  await run('apt-get', [...own, '-o', 'Acquire::http::Timeout=20', 'update']);
  await unpack(own, packages, into);
  return own;
}

async function unpack(apt, packages, into) {
  const debs = join(FOLDER, 'debs');
  rmSync(debs, { recursive: true, force: true });
  mkdirSync(debs, { recursive: true });
  mkdirSync(into, { recursive: true });
  await run('apt-get', [...apt, 'download', ...packages], debs);
  for (const deb of readdirSync(debs)) await run('dpkg-deb', ['-x', join(debs, deb), into]);
  rmSync(debs, { recursive: true, force: true });
}

/** The shared libraries that the unpacked programs do not find. */
async function missingLibraries(root) {
  const missing = new Set();
  const env = { ...process.env, LD_LIBRARY_PATH: libraryFolders(root).join(':') };
  for (const { command } of Object.values(COMMANDS)) {
    const program = programIn(root, command);
    if (program === null) continue;
    const { output } = await runQuietly(ROOT, 'ldd', [program], { env });
    for (const [, library] of output.matchAll(/^\s*(\S+) => not found/gm)) missing.add(library);
  }
  return [...missing];
}

/** The libraries among all that `packages` depend on that this system has not installed. */
async function absentLibraryPackages(apt, packages) {
  const onlyDepends = ['recommends', 'suggests', 'conflicts', 'breaks', 'replaces', 'enhances'].map((kind) => `--no-${kind}`);
  const closure = await run('apt-cache', [...apt, 'depends', '--recurse', ...onlyDepends, ...packages]);
  const installed = await run('dpkg-query', ['-W', '-f', '${db:Status-Abbrev} ${Package}\n']);
  const have = new Set(Array.from(installed.matchAll(/^ii\s+(\S+)/gm), ([, name]) => name));
  return [...new Set(closure.match(/^lib[^\s:]+$/gm))].filter((name) => !have.has(name));
}

function programIn(root, command) {
  return ['usr/bin', 'usr/sbin'].map((folder) => join(root, folder, command)).find(isProgram) ?? null;
}

function libraryFolders(root) {
  return ['usr/lib', 'lib'].flatMap((name) => {
    const folder = join(root, name);
    if (!existsSync(folder)) return [];
    const ofArchitecture = readdirSync(folder).filter((inside) => inside.includes('-linux-'));
    return [folder, ...ofArchitecture.map((inside) => join(folder, inside))];
  });
}

async function run(command, args, cwd = ROOT) {
  const { code, output } = await runQuietly(cwd, command, args, { env: { ...process.env, LC_ALL: 'C' } });
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}\n${output.trim()}`);
  return output;
}

function say(text) {
  process.stderr.write(`${text}\n`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  process.stdout.write(`${JSON.stringify(await ensureTestServers(), null, 2)}\n`);
}
