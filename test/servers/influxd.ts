import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { InfluxConfig } from '../../broker/config.ts';
import { serverPaths } from './server-paths.ts';

/** The configuration of a server whose History is there, or is not. */
export function influxAt(url: string, database = 'downlink'): Extract<InfluxConfig, { enabled: true }> {
  return { enabled: true, url, database, username: undefined, password: undefined };
}

/** Nobody listens there. */
export const INFLUX_AWAY = influxAt('http://127.0.0.1:9');

/** A real InfluxDB 1.x of the test's own: its own folder, its own ports. */
export class Influxd {
  readonly #folder: string;
  readonly #hasAuth: boolean;
  #process: ChildProcess | undefined;
  #address = '127.0.0.1:0';

  private constructor(folder: string, hasAuth: boolean) {
    this.#folder = folder;
    this.#hasAuth = hasAuth;
  }

  /** Answers when it listens. `hasAuth`: it wants users; the first may be made without one. */
  static async start({ hasAuth = false } = {}): Promise<Influxd> {
    const influxd = new Influxd(await mkdtemp(join(tmpdir(), 'downlink-influxd-')), hasAuth);
    await influxd.restart();
    return influxd;
  }

  /** The same after a restart. */
  get url(): string {
    return `http://${this.#address}`;
  }

  /** Starts it (again) with the data and on the port that it had. */
  async restart(): Promise<void> {
    if (serverPaths.influxd === null) throw new Error('there is no influxd here');
    await this.stop();
    const config = join(this.#folder, 'influxdb.conf');
    await writeFile(config, configOf(this.#folder, this.#address, this.#hasAuth));
    const child = spawn(serverPaths.influxd, ['run', '-config', config], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#process = child;
    process.once('exit', () => child.kill('SIGKILL'));
    this.#address = await listeningAddress(child);
  }

  /** Stops it in order; with SIGKILL as a crash would. Its data stays. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    child.kill('SIGCONT');
    await exited;
  }

  /** Connections are taken, but nothing is answered any more. */
  hang(): void {
    this.#process?.kill('SIGSTOP');
  }

  goOn(): void {
    this.#process?.kill('SIGCONT');
  }

  /** What it answers to one InfluxQL statement. */
  async execute(statement: string, database = ''): Promise<unknown> {
    const body = new URLSearchParams({ q: statement, db: database });
    const response = await fetch(`${this.url}/query`, { method: 'POST', body });
    return response.json();
  }

  /** Stops it and removes its data. */
  async remove(): Promise<void> {
    await this.stop('SIGKILL');
    await rm(this.#folder, { recursive: true, force: true });
  }
}

function listeningAddress(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      if (said === 'listening') return;
      said += chunk.toString();
      const address = /Listening on HTTP.* addr=(\S+)/.exec(said)?.[1];
      if (address === undefined) return;
      said = 'listening';
      resolve(address);
    });
    child.once('error', reject);
    child.once('exit', () => reject(new Error(`influxd did not start:\n${said}`)));
  });
}

function configOf(folder: string, address: string, hasAuth: boolean): string {
  return `
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
dir = "${folder}/meta"
[data]
dir = "${folder}/data"
wal-dir = "${folder}/wal"
[http]
bind-address = "${address}"
log-enabled = false
auth-enabled = ${hasAuth}
[monitor]
store-enabled = false
[continuous_queries]
enabled = false
`;
}
