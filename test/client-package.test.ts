import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { built } from './built.ts';
import { LiveServer } from './live-server.ts';

/** The device clients as a project of somebody else gets them: the README's program, run and checked against the package's types. */
const ROOT = join(import.meta.dirname, '..');
const MODULES = ['device-client', 'executed-commands', 'push-client', 'pull-client', 'sse-client', 'hybrid-client'];

let server: LiveServer;
let project: string;
let program: string;
let child: ChildProcess | undefined;

beforeAll(async () => {
  await built();
  server = await LiveServer.start();
  project = await mkdtemp(join(tmpdir(), 'downlink-project-'));
  await mkdir(join(project, 'node_modules'));
  await symlink(ROOT, join(project, 'node_modules/downlink'));
  await symlink(join(ROOT, 'node_modules/@types'), join(project, 'node_modules/@types'));
  await writeFile(join(project, 'package.json'), '{"type":"module"}');
  const readme = await readFile(join(ROOT, 'README.md'), 'utf8');
  program = /### The device client[^]*?```js\n([^]*?)```/.exec(readme)?.[1] ?? '';
});

afterAll(async () => {
  if (child !== undefined && child.exitCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await server.close();
  await rm(project, { recursive: true, force: true });
});

test('the README’s device program runs as it stands', async () => {
  const token = await server.createDevice('pump-1');
  const own = program
    .replace('mqtt://127.0.0.1:1883', `mqtt://127.0.0.1:${server.mqttPort}`)
    .replace('http://127.0.0.1:8080', server.url);
  await writeFile(join(project, 'device.js'), own);
  child = spawn(process.execPath, ['device.js'], {
    cwd: project,
    env: { ...process.env, TOKEN: token },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const { id } = await server.issue('pump-1', { name: 'start', params: { rpm: 1_000 } });
  expect(await server.commandIn(id, 'succeeded')).toMatchObject({ result: { rpm: 1_000 } });
  const tooFast = await server.issue('pump-1', { name: 'start', params: { rpm: 5_000 } });
  await server.commandIn(tooFast.id, 'rejected');
  const latest = async () => (await server.request('GET', '/v1/devices/pump-1/telemetry/latest')).body;
  await expect.poll(async () => JSON.stringify(await latest()), { timeout: 30_000 }).toContain('"pressure"');
});

test('every module that the README names is there, with and without the ending, and has types', async () => {
  const imports = MODULES.flatMap((name, i) => [
    `import * as a${i} from 'downlink/client/${name}.js';`,
    `import * as b${i} from 'downlink/client/${name}';`,
    `export const same${i}: boolean = a${i} === b${i};`,
  ]);
  const typed = [
    ...imports,
    "const device = new a5.HybridClient({ mqttUrl: 'a', url: 'b', deviceId: 'c', token: 'd', pull: { ask: 'sync' } });",
    'export const dropped: number = device.counts.samplesDropped;',
    '// @ts-expect-error A reading is a number, a boolean or a text.',
    'void device.telemetry({ level: { of: 5 } });',
  ];
  await writeFile(join(project, 'typed.ts'), typed.join('\n'));
  const options = ['--module', 'nodenext', '--target', 'es2023', '--strict', '--types', 'node', 'typed.ts'];
  const tsc = [join(ROOT, 'node_modules/typescript/bin/tsc'), '--skipLibCheck', ...options];
  const { stdout } = await promisify(execFile)(process.execPath, tsc, { cwd: project }).catch(
    (error: { stdout: string }) => error,
  );
  expect(stdout).toBe('');
});
