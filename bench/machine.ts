import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { arch, availableParallelism, cpus, loadavg, release, type } from 'node:os';
import { join } from 'node:path';
import { pinning } from './pinning.ts';
import { median } from './statistics.ts';

/** What a figure depends on besides the program. */
export type Machine = {
  readonly cpu: string;
  readonly cores: number;
  readonly pinned: boolean;
  readonly system: string;
  readonly node: string;
  readonly versions: Readonly<Record<string, string>>;
  /** Median time to make 4 KiB durable where the data folder is, milliseconds. */
  readonly fsyncMs: number;
  /** Of the minute before the first run: what else the machine was doing. */
  readonly loadAverage: number;
  readonly at: string;
};

const FSYNCS = 50;
const LIBRARIES = ['aedes', 'fastify', 'classic-level'] as const;

export function describeMachine(): Machine {
  const root = join(import.meta.dirname, '..', '..');
  const versionAt = (path: string): string => (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
  const versions: Record<string, string> = { downlink: versionAt(join(root, 'package.json')) };
  for (const name of LIBRARIES) versions[name] = versionAt(join(root, 'node_modules', name, 'package.json'));
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    pinned: pinning.enabled,
    system: `${type()} ${release()} ${arch()}`,
    node: process.versions.node,
    versions,
    fsyncMs: measureFsync(),
    loadAverage: loadavg()[0] ?? 0,
    at: new Date().toISOString(),
  };
}

function measureFsync(): number {
  const folder = join(process.cwd(), '.cache', 'bench');
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `fsync-${process.pid}`);
  const file = openSync(path, 'w');
  const block = Buffer.alloc(4096);
  const times = Array.from({ length: FSYNCS }, () => {
    writeSync(file, block);
    const startedAt = performance.now();
    fsyncSync(file);
    return performance.now() - startedAt;
  });
  closeSync(file);
  rmSync(path);
  return median(times);
}
