import { spawn, execFileSync, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { corePrefix, type Core } from './pinning.ts';

/** A server in a process of its own, pinned to a core. */
const running = new Set<ChildProcess>();
process.on('exit', () => {
  // Last started, first ended: children write to folders that are removed on the same occasion.
  for (const child of [...running].toReversed()) child.kill('SIGKILL');
});

const START_MS_MAX = 180_000;
const STOP_MS_MAX = 15_000;
const PRINTED_CHARS_MAX = 100_000;
const ROOT = join(import.meta.dirname, '..', '..');
/** The compiled program's folder, where this file lies in bench/. */
const DIST = join(import.meta.dirname, '..');

export type ServerProcess<T> = {
  readonly ready: T;
  /** From its start until it said that it is ready. */
  readonly startMs: number;
  readonly residentBytes: () => number;
  stop(signal?: NodeJS.Signals): Promise<void>;
};

export type ServerStart<T> = {
  readonly command: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly core: Core;
  /** Looks for what says that it is ready in all that was printed so far. */
  readonly findReady: (printed: string) => T | undefined;
};

/** A compiled script of ours with Node.js, with the flags that `npm start` gives it. */
export function nodeCommand(script: string): string[] {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: { start: string } };
  const flags = /^node((?: +--\S+)*) /.exec(scripts.start)?.[1]?.trim().split(/ +/) ?? [];
  return [process.execPath, ...flags.filter((flag) => flag !== ''), join(DIST, script)];
}

/** Rejects with the server's words when it ends or stays silent. */
export async function startProcess<T>({ command, env, core, findReady }: ServerStart<T>): Promise<ServerProcess<T>> {
  const [program = process.execPath, ...args] = [...corePrefix(core), ...command];
  const startedAt = performance.now();
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  child.once('exit', () => running.delete(child));
  let printed = '';
  const ready = await new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => fail('did not start in time'), START_MS_MAX);
    const fail = (what: string): void => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      reject(new Error(`${command.join(' ')} ${what}: ${printed.trim()}`));
    };
    const take = (chunk: Buffer): void => {
      printed = (printed + chunk.toString()).slice(-PRINTED_CHARS_MAX);
      const found = findReady(printed);
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
  const startMs = performance.now() - startedAt;
  child.stdout.removeAllListeners('data').resume();
  child.stderr.removeAllListeners('data').resume();
  return { ready, startMs, residentBytes: () => residentBytes(child), stop: (signal) => stop(child, signal) };
}

function residentBytes({ pid }: ChildProcess): number {
  if (process.platform === 'linux') {
    return Number(/^VmRSS:\s*(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1_024;
  }
  return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' })) * 1_024;
}

async function stop(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
  await ended;
  clearTimeout(timer);
}
