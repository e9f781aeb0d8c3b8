import { once } from 'node:events';
import { availableParallelism, loadavg } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { expect } from 'vitest';
import { percentile } from '../bench/statistics.ts';
import type { HealthyData, HealthyReport } from './attacks/healthy-program.ts';
import { ServerProcess } from './attacks/server-process.ts';
import { keyFor } from './api-support.ts';
import { LiveServer } from './live-server.ts';

/**
 * A server in a process of its own and a healthy device at it, in a thread of its own. An attack comes to nothing when the device's pings,
 * readings and commands went on meanwhile, the server is as it was, and its memory is back.
 */
const PROGRAM = join(import.meta.dirname, '../dist/test/attacks/healthy-program.js');
/** The aim is 100 ms. It is printed, since machines are shared: a fault is fifty times as much, and more where several programs wait for each processor. */
const AIM_MS = 100;
const P99_MS_MAX = 5_000;
/** Fewer say nothing. */
const PINGS_MIN = 15;
const COMMANDS_MIN = 3;
const HEAP_GROWTH_MIB_MAX = 24;
const MEMORY_BACK_MS_MAX = 20_000;

export class AttackedServer {
  readonly live: LiveServer;
  readonly process: ServerProcess;
  readonly #worker: Worker;

  private constructor(live: LiveServer, process: ServerProcess, worker: Worker) {
    this.live = live;
    this.process = process;
    this.#worker = worker;
  }

  /** `env` sets bounds and the like; with the log level `debug` unless it says otherwise. */
  static async start(env: Readonly<Record<string, string>> = {}, overrides: Parameters<typeof LiveServer.start>[0] = {}) {
    const process = new ServerProcess(env);
    const live = await LiveServer.start({ logLevel: 'debug', ...overrides }, undefined, process.start);
    const id = 'healthy';
    const token = await live.createDevice(id);
    const { secret: operatorKey } = await keyFor(live, 'operator');
    const workerData: HealthyData = { mqttPort: live.mqttPort, url: live.url, id, token, operatorKey };
    const worker = new Worker(PROGRAM, { workerData });
    await once(worker, 'message');
    return new AttackedServer(live, process, worker);
  }

  get mqttPort(): number {
    return this.live.mqttPort;
  }

  /** Runs the attack and answers what it answers, once the healthy device was seen to be well all the while and the server's memory back. */
  async withstands<T>(name: string, attack: () => Promise<T>, heapGrowthMibMax = HEAP_GROWTH_MIB_MAX): Promise<T> {
    const before = await this.process.memory();
    await this.#ask('begin');
    const startedAt = performance.now();
    const outcome = await attack();
    const attackMs = performance.now() - startedAt;
    let report = await this.#ask('report');
    while (report.faults.length === 0 && (report.pings.length < PINGS_MIN || report.commands.length < COMMANDS_MIN)) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      report = await this.#ask('report');
    }
    const after = await this.#memoryBack(before.heap + heapGrowthMibMax);
    process.stdout.write(`${line(name, attackMs, report, before.heap, after.heap)}\n`);

    expectUnharmed(this.process, report);
    expectBack(after.heap, before.heap + heapGrowthMibMax);
    return outcome;
  }

  async close(): Promise<void> {
    this.#worker.postMessage('end', []);
    await this.#worker.terminate();
    await this.live.close();
  }

  async #ask(what: 'begin' | 'report'): Promise<HealthyReport> {
    const answer = once(this.#worker, 'message') as Promise<[HealthyReport]>;
    this.#worker.postMessage(what, []);
    const [report] = await answer;
    return report;
  }

  async #memoryBack(heapMibMax: number): Promise<{ heap: number }> {
    const until = performance.now() + MEMORY_BACK_MS_MAX;
    for (;;) {
      const memory = await this.process.memory();
      if (memory.heap < heapMibMax || performance.now() > until) return memory;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

function expectUnharmed(server: ServerProcess, report: HealthyReport): void {
  expect(server.isRunning, 'the server runs').toBe(true);
  expect(report.faults, 'faults that the healthy device met').toEqual([]);
  const p99MsMax = P99_MS_MAX * Math.max(1, (loadavg()[0] ?? 1) / availableParallelism());
  for (const what of ['pings', 'readings', 'commands'] as const) {
    expect(percentile(report[what], 0.99), `p99 of the healthy device's ${what}, ms`).toBeLessThan(p99MsMax);
  }
  expect(faultsLogged(server.printed), 'faults in the log').toEqual([]);
}

function expectBack(heapMib: number, heapMibMax: number): void {
  expect(heapMib, 'MiB of heap after the attack').toBeLessThan(heapMibMax);
}

/** The log lines at level error and above, and whatever was printed that is no log line after the first one was. */
export function faultsLogged(printed: string): string[] {
  return logLines(printed).filter((text) => {
    const level = /^\{"level":(\d+),/.exec(text)?.[1];
    return level === undefined || Number(level) >= 50;
  });
}

/** What was printed after the banner, line by line. */
export function logLines(printed: string): string[] {
  const begin = /^\{"level":/m.exec(printed)?.index;
  return begin === undefined ? [] : printed.slice(begin).trimEnd().split('\n');
}

/** One line: p50/p99/max of each kind, and what of it is beyond the aim. */
function line(name: string, ms: number, { pings, readings, commands }: HealthyReport, before: number, after: number): string {
  const told = (what: string, all: number[]): string => {
    const [p50, p99, max] = [percentile(all, 0.5), percentile(all, 0.99), Math.max(...all)];
    const mark = p99 > AIM_MS ? ` OVER ${AIM_MS}` : '';
    return `${what} ${p50.toFixed(1)}/${p99.toFixed(1)}/${max.toFixed(1)} ms of ${all.length}${mark}`;
  };
  const kinds = [told('pings', pings), told('readings', readings), told('commands', commands)].join(', ');
  const heap = `heap ${before.toFixed(1)} -> ${after.toFixed(1)} MiB`;
  return `healthy beside "${name}" (${(ms / 1_000).toFixed(1)} s), p50/p99/max: ${kinds}; ${heap}`;
}
