import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

/** The server as a process of its own, on one data folder and, after the first start, on the same ports: to be killed and started again. */
const START_MS_MAX = 60_000;
/** Compiled, this file lies in dist/test/torture/; as a source in test/torture/. */
const HERE = import.meta.dirname;
const PROGRAM = HERE.includes(join('dist', 'test')) ? join(HERE, '../../main.js') : join(HERE, '../../dist/main.js');

export const ADMIN_KEY = 'torture-admin-key-0123456789';

export class Victim {
  readonly #dataDir: string;
  readonly #env: Readonly<Record<string, string>>;
  #child: ChildProcess | undefined;
  #exited: Promise<unknown> = Promise.resolve();
  #printed = '';
  httpPort = 0;
  mqttPort = 0;

  constructor(dataDir: string, env: Readonly<Record<string, string>> = {}) {
    this.#dataDir = dataDir;
    this.#env = env;
    process.once('exit', () => this.#child?.kill('SIGKILL'));
  }

  get url(): string {
    return `http://127.0.0.1:${this.httpPort}`;
  }

  /** What the running server has printed. */
  get printed(): string {
    return this.#printed;
  }

  /** Starts the process and answers at once. */
  spawn(): void {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('DOWNLINK_'));
    const child = spawn(process.execPath, [PROGRAM], {
      env: {
        ...Object.fromEntries(inherited),
        DOWNLINK_DATA_DIR: this.#dataDir,
        DOWNLINK_HTTP_PORT: String(this.httpPort),
        DOWNLINK_MQTT_PORT: String(this.mqttPort),
        DOWNLINK_ADMIN_KEY: ADMIN_KEY,
        DOWNLINK_LOG_LEVEL: 'warn',
        ...this.#env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#printed = '';
    const take = (chunk: Buffer): void => void (this.#printed += chunk.toString());
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    this.#exited = once(child, 'exit');
    this.#child = child;
  }

  /** Resolves when the server answers that it can do its job. Rejects with its words when it ends, or is not there in time. */
  async ready(): Promise<void> {
    const child = this.#child;
    if (child === undefined) throw new Error('bug: not spawned');
    const until = performance.now() + START_MS_MAX;
    for (;;) {
      const end = child.exitCode ?? child.signalCode;
      if (end !== null) throw new Error(`the server did not start (${end}): ${this.#printed.trim()}`);
      if (performance.now() > until) throw new Error(`the server was not ready in time: ${this.#printed.trim()}`);
      const mqtt = /mqtt:\/\/[^:]+:(\d+)/.exec(this.#printed)?.[1];
      const http = /http:\/\/[^:]+:(\d+)\/docs/.exec(this.#printed)?.[1];
      if (mqtt !== undefined && http !== undefined) {
        this.mqttPort = Number(mqtt);
        this.httpPort = Number(http);
        const answer = await fetch(`${this.url}/readyz`, { signal: AbortSignal.timeout(2_000) }).catch(() => undefined);
        await answer?.text();
        if (answer?.status === 200) return;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#exited;
    this.#child = undefined;
  }

  /** SIGTERM; resolves with the exit code, or the signal that ended it in its stead. */
  async stop(): Promise<number | NodeJS.Signals | null> {
    const child = this.#child;
    if (child === undefined) return null;
    child.kill('SIGTERM');
    await this.#exited;
    this.#child = undefined;
    return child.exitCode ?? child.signalCode;
  }
}
