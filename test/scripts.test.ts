import { spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

/** The npm scripts, tried on a small project of their own that borrows the installed packages. */
const ROOT = join(import.meta.dirname, '..');
let project = '';

beforeEach(async () => {
  project = await mkdtemp(join(tmpdir(), 'downlink-scripts-'));
  await cp(join(ROOT, '.scripts'), join(project, '.scripts'), { recursive: true });
  for (const file of ['package.json', 'package-lock.json', 'tsconfig.json']) await cp(join(ROOT, file), join(project, file));
  await symlink(join(ROOT, 'node_modules'), join(project, 'node_modules'));
  await writeFile(join(project, 'main.ts'), 'process.stdout.write(JSON.stringify(process.argv.slice(2)));\n');
});

afterEach(async () => {
  await rm(project, { recursive: true, force: true });
});

describe('npm start', () => {
  it('builds what is missing with a word about it, and hands the arguments over', async () => {
    const { stdout, stderr, code } = await run('start', '--port', '5');
    expect(stderr).toMatch(/^Building .*\nBuilt in /);
    expect({ stdout, code }).toEqual({ stdout: '["--port","5"]', code: 0 });
  });

  it('says and builds nothing when nothing has changed', async () => {
    await run('start');
    expect(await run('start')).toEqual({ stdout: '[]', stderr: '', code: 0 });
  });

  it('builds anew after a change', async () => {
    await run('start');
    await writeFile(join(project, 'main.ts'), "process.stdout.write('changed');\n");
    expect(await run('start')).toMatchObject({ stdout: 'changed', stderr: expect.stringContaining('Building') });
  });

  it('shows the compiler’s errors and exits with 1 when the build fails, as often as it is tried', async () => {
    await writeFile(join(project, 'main.ts'), "export const port: number = 'x';\n");
    for (let i = 0; i < 2; i += 1) {
      expect(await run('start')).toMatchObject({
        stdout: '',
        code: 1,
        stderr: expect.stringContaining('main.ts(1,14): error TS2322'),
      });
    }
  });

  it('started twice at once builds once', async () => {
    const both = await Promise.all([run('start', 'a'), run('start', 'b')]);
    expect(both.map(({ stdout, code }) => ({ stdout, code }))).toEqual([
      { stdout: '["a"]', code: 0 },
      { stdout: '["b"]', code: 0 },
    ]);
    expect(both.filter(({ stderr }) => stderr.includes('Building'))).toHaveLength(1);
  });

  it('does not wait for a process that died while it was building', async () => {
    const lock = join(project, '.cache/prepare.lock');
    const dead = spawn(process.execPath, ['--version']);
    await new Promise((resolve) => dead.once('exit', resolve));
    await mkdir(lock, { recursive: true });
    await writeFile(join(lock, 'owner.json'), JSON.stringify({ pid: dead.pid, host: hostname() }));
    expect(await run('start')).toMatchObject({ stdout: '[]', code: 0 });
  });

  it('tells an old Node.js what is needed, in one line', async () => {
    const pretend = 'data:text/javascript,Object.defineProperty(process.versions,"node",{value:"18.20.0"})';
    const { stderr, code } = await node(['--import', pretend, join(project, '.scripts/run.mjs'), 'start']);
    expect(stderr).toMatch(/^Downlink needs Node\.js 20\.19 or newer, and this is 18\.20\.0.*\n$/);
    expect(code).toBe(1);
  });

  it('stops when the shell that npm put before it is gone', async () => {
    await writeFile(
      join(project, 'main.ts'),
      "process.once('SIGTERM', () => process.stdout.write('stopped', () => process.exit()));\n" +
        "process.stdout.write('started ');\nsetInterval(() => {}, 1_000);\n",
    );
    // The colon keeps the shell from giving its place to node.
    const shell = spawn('sh', ['-c', `"${process.execPath}" .scripts/run.mjs start; :`], {
      cwd: project,
      env: { ...process.env, npm_lifecycle_event: 'start' },
    });
    let printed = '';
    shell.stdout.on('data', (chunk: Buffer) => {
      printed += chunk.toString();
      if (printed === 'started ') shell.kill('SIGKILL');
    });
    await new Promise((resolve) => shell.once('close', resolve));
    expect(printed).toBe('started stopped');
  });
});

describe('the lock', () => {
  it('lets one process work at a time', async () => {
    const log = join(project, 'log');
    const script = `
      import { appendFileSync } from 'node:fs';
      import { setImmediate } from 'node:timers/promises';
      import { withLock } from ${JSON.stringify(pathToFileURL(join(project, '.scripts/lock.mjs')).href)};
      await withLock('lock', async () => {
        appendFileSync('log', '(');
        for (let i = 0; i < 1_000; i += 1) await setImmediate();
        appendFileSync('log', ')');
      });`;
    await Promise.all(Array.from({ length: 5 }, () => node(['--input-type=module', '--eval', script])));
    expect(await readFile(log, 'utf8')).toBe('()()()()()');
  });
});

describe('the count at the end of a CI run', () => {
  const passed = { status: 'passed', assertionResults: [{ status: 'passed' }] };
  const failed = { status: 'failed', assertionResults: [{ status: 'failed' }] };
  const broken = { status: 'failed', assertionResults: [] };
  const ok = ['format', 'lint', 'types', 'tests'].map((name) => ({ name, ok: true }));
  const not = (...names: string[]): unknown[] => ok.map(({ name }) => ({ name, ok: !names.includes(name) }));

  it.each([
    ['all is well', results(5, 0, 0, [passed]), ok, '5 passed, 0 failed', 0],
    ['tests were skipped', results(5, 0, 2, [passed]), ok, '5 passed, 0 failed, 2 skipped', 0],
    ['a test failed', results(4, 1, 0, [passed, failed]), not('tests'), '4 passed, 1 failed', 1],
    ['a file broke before its first test', results(4, 0, 0, [passed, broken]), not('tests'), '4 passed, 1 failed', 1],
    ['all tests passed and the linter did not', results(5, 0, 0, [passed]), not('lint'), '5 passed, 1 failed', 1],
    ['the run died before the tests', undefined, undefined, '0 passed, 1 failed', 1],
    ['the run died after the tests', results(5, 0, 0, [passed]), undefined, '5 passed, 1 failed', 1],
  ])('is right when %s', async (_, testResults, checks, line, code) => {
    await mkdir(join(project, '.cache'));
    if (testResults) await writeFile(join(project, '.cache/test-results.json'), JSON.stringify(testResults));
    if (checks) await writeFile(join(project, '.cache/check-summary.json'), JSON.stringify(checks));
    expect(await node([join(project, '.scripts/count.mjs')])).toEqual({ stdout: `${line}\n`, stderr: '', code });
  });

  function results(numPassedTests: number, numFailedTests: number, numPendingTests: number, testResults: unknown[]) {
    return { numPassedTests, numFailedTests, numPendingTests, numTodoTests: 0, testResults };
  }
});

type Ended = { stdout: string; stderr: string; code: number | null };

function run(...args: string[]): Promise<Ended> {
  return node([join(project, '.scripts/run.mjs'), ...args]);
}

function node(args: string[]): Promise<Ended> {
  const child = spawn(process.execPath, args, { cwd: project, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ stdout, stderr, code }));
  });
}
