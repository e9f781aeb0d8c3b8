import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Servers on one core, the load on another, where the system can pin (Linux with taskset and two cores). */
export type Pinning = { readonly enabled: false } | { readonly enabled: true; readonly server: number; readonly load: number };

export const pinning: Pinning = findPinning();

/** Moves this process to the load's core. */
export function pinLoad(): void {
  if (pinning.enabled) spawnSync('taskset', ['-a', '-p', '-c', String(pinning.load), String(process.pid)]);
}

/** Which of the two cores a process belongs on. */
export type Core = 'server' | 'load';

/** What goes before a command to keep it on its core. */
export function corePrefix(core: Core): string[] {
  return pinning.enabled ? ['taskset', '-c', String(pinning[core])] : [];
}

function findPinning(): Pinning {
  const [server, load] = allowedCores();
  if (server === undefined || load === undefined) return { enabled: false };
  const tried = spawnSync('taskset', ['-c', String(server), process.execPath, '--version']);
  return tried.status === 0 ? { enabled: true, server, load } : { enabled: false };
}

/** Cores this process may use, from the kernel's list such as `0-3,8`. */
function allowedCores(): number[] {
  if (process.platform !== 'linux') return [];
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  return list.split(',').flatMap((range) => {
    const [from = Number.NaN, to = from] = range.split('-').map(Number);
    return Number.isNaN(from) ? [] : Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}
