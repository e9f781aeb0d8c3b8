import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { serverPrefix } from './pinning.ts';

/** A server in a process of its own, pinned to the servers' core. */
const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

const START_MS_MAX = 30_000;
const STOP_MS_MAX = 10_000;
/** The compiled program's folder, where this file lies in bench/. */
const DIST = join(import.meta.dirname, '..');

export type ServerProcess = { readonly ports: { readonly http: number; readonly mqtt: number }; stop(): Promise<void> };

/** `findPorts` looks for the ports in all that was printed so far. Rejects with the server's words when it ends or stays silent. */
export async function startProcess(
  script: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  findPorts: (printed: string) => { http: number; mqtt: number } | undefined,
): Promise<ServerProcess> {
  const [command = process.execPath, ...rest] = [...serverPrefix(), process.execPath, join(DIST, script), ...args];
  const child = spawn(command, rest, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  child.once('exit', () => running.delete(child));
  let printed = '';
  const ports = await new Promise<{ http: number; mqtt: number }>((resolve, reject) => {
    const timer = setTimeout(() => fail('did not start in time'), START_MS_MAX);
    const fail = (what: string): void => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      reject(new Error(`${script} ${what}: ${printed.trim()}`));
    };
    const take = (chunk: Buffer): void => {
      printed += chunk.toString();
      const found = findPorts(printed);
      if (found === undefined) return;
      clearTimeout(timer);
      child.off('exit', ended);
      resolve(found);
    };
    const ended = (): void => fail('ended');
    child.once('error', (error) => fail(error.message));
    child.once('exit', ended);
    child.stdout.on('data', take);
    child.stderr.on('data', take);
  });
  child.stdout.removeAllListeners('data').resume();
  return { ports, stop: () => stop(child) };
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
  await ended;
  clearTimeout(timer);
}
