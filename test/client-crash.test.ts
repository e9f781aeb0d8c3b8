import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Plan } from './crash/device-program.ts';
import { built } from './built.ts';
import { LiveServer } from './live-server.ts';

/** A device killed with SIGKILL at each step of a command, and started again: carried out at most once, and in the end reported rightly. */
const ROOT = join(import.meta.dirname, '..');
const WAYS = ['push', 'plain', 'long-poll', 'sync', 'sse', 'hybrid'] as const;

let server: LiveServer;
let folder: string;
let nth = 0;
const children: ChildProcess[] = [];

beforeAll(async () => {
  await built();
  server = await LiveServer.start();
  folder = await mkdtemp(join(tmpdir(), 'downlink-crash-'));
});

afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

function start(plan: Plan): ChildProcess {
  const program = join(ROOT, 'dist/test/crash/device-program.js');
  const child = spawn(process.execPath, [program, JSON.stringify(plan)], { stdio: ['ignore', 'inherit', 'inherit'] });
  children.push(child);
  return child;
}

const interrupted = expect.stringContaining('interrupted by a restart') as string;

describe.each([
  ['received', 'succeeded', 1, undefined],
  ['begun', 'failed', 0, interrupted],
  ['executed', 'failed', 1, interrupted],
  ['before the report', 'succeeded', 1, undefined],
  ['after the report', 'succeeded', 1, undefined],
] as const)('killed when a command was %s', (dieAt, state, runs, message) => {
  test.each(WAYS)(`it ends as ${state}, carried out ${runs} times: %s`, async (way) => {
    nth += 1;
    const deviceId = `mortal-${nth}`;
    const token = await server.createDevice(deviceId, { wake: { everySeconds: 1 }, limits: { leaseSeconds: 1 } });
    const plan: Plan = {
      way,
      url: server.url,
      mqttUrl: `mqtt://127.0.0.1:${server.mqttPort}`,
      deviceId,
      token,
      recordPath: join(folder, `${deviceId}.json`),
      effectsPath: join(folder, `${deviceId}.effects`),
    };
    const { id } = await server.issue(deviceId, { name: 'act' });
    const victim = start({ ...plan, dieAt });
    expect(await once(victim, 'exit')).toEqual([null, 'SIGKILL']);
    start(plan);
    expect(await server.commandIn(id, state)).toMatchObject(message === undefined ? { result: id } : { message });
    const effects = await readFile(plan.effectsPath, 'utf8').catch(() => '');
    expect(effects.split('\n').filter(Boolean)).toEqual(Array.from({ length: runs }, () => id));
  });
});
