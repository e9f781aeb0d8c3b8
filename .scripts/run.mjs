// The way in for every npm script: checks Node, installs and builds what is missing, then runs the command in this process.
//   node .scripts/run.mjs start|backup|simulate|compare|bench|torture|test|lint|format|build [arguments]
// This file keeps to syntax that old versions of Node can read, so that they get a clear answer too.
import { fileURLToPath, pathToFileURL } from 'node:url';
import { join, dirname } from 'node:path';

const NODE_LOWEST = [20, 19];
const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const PROGRAMS = {
  start: 'main.js',
  backup: 'broker/backup/fetch-backup.js',
  simulate: 'simulators/main.js',
  compare: 'bench/push-pull/main.js',
  bench: 'bench/main.js',
  torture: 'test/torture/main.js',
};
const TOOLS = ['test', 'lint', 'format', 'build'];

const [name, ...args] = process.argv.slice(2);
const [major, minor] = process.versions.node.split('.').map(Number);

if (major < NODE_LOWEST[0] || (major === NODE_LOWEST[0] && minor < NODE_LOWEST[1])) {
  fail(
    'Downlink needs Node.js ' +
      NODE_LOWEST.join('.') +
      ' or newer, and this is ' +
      process.versions.node +
      ': see https://nodejs.org',
  );
} else if (!(name in PROGRAMS) && !TOOLS.includes(name)) {
  fail('usage: npm start, or npm run ' + Object.keys(PROGRAMS).concat(TOOLS).join('|') + ' [-- arguments]');
} else {
  await run();
}

async function run() {
  if (process.env.npm_lifecycle_event !== undefined && process.platform !== 'win32') {
    const { followParent } = await import('./follow-parent.mjs');
    followParent();
  }
  const { prepare, PrepareError } = await import('./prepare.mjs');
  try {
    if (name in PROGRAMS) await prepare(ROOT, { build: true });
    else await tool(prepare);
  } catch (error) {
    if (!(error instanceof PrepareError)) throw error;
    return fail(error.message);
  }
  if (!(name in PROGRAMS)) return;
  const program = join(ROOT, 'dist', PROGRAMS[name]);
  process.argv = [process.argv[0], program].concat(args);
  await import(pathToFileURL(program).href);
}

async function tool(prepare) {
  await prepare(ROOT, { build: name === 'build' });
  if (name === 'build') return;
  const { check, lint, format } = await import('./checks.mjs');
  const { endChildren } = await import('./child.mjs');
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.once(signal, () => {
      endChildren(signal);
      process.exit(1);
    });
  }
  const tools = { test: check, lint, format };
  process.exitCode = await tools[name](ROOT, args);
}

function fail(message) {
  process.stderr.write(message + '\n');
  process.exitCode = 1;
}
