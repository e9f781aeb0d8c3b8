import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findServer } from './found-servers.ts';
import { makeScratchFolder, type ScratchFolder } from './scratch-folder.ts';
import { startProcess, type ServerProcess } from './server-process.ts';

/** A real InfluxDB 1.x with an empty folder of its own, on the load's core. */
export class InfluxServer {
  readonly #folder: ScratchFolder;
  readonly #server: { readonly path: string; readonly env: NodeJS.ProcessEnv };
  #process: ServerProcess<string> | undefined;
  #address = '127.0.0.1:0';

  private constructor(folder: ScratchFolder, server: { path: string; env: NodeJS.ProcessEnv }) {
    this.#folder = folder;
    this.#server = server;
  }

  /** Why there can be none here, or undefined. */
  static obstacle(): string | undefined {
    return findServer('influxd') === undefined ? 'no influxd here' : undefined;
  }

  static async start(): Promise<InfluxServer> {
    const found = findServer('influxd');
    if (found === undefined) throw new Error('no influxd here');
    const influx = new InfluxServer(await makeScratchFolder('influxdb'), found);
    await influx.resume().catch(async (error: unknown) => {
      await influx.remove();
      throw error;
    });
    return influx;
  }

  get url(): string {
    return `http://${this.#address}`;
  }

  /** Starts it on the data and the port that it had. */
  async resume(): Promise<void> {
    const config = join(this.#folder.path, 'influxdb.conf');
    await writeFile(config, configOf(this.#folder.path, this.#address));
    this.#process = await startProcess({
      command: [this.#server.path, 'run', '-config', config],
      env: this.#server.env,
      core: 'load',
      findReady: (printed) => /Listening on HTTP.* addr=(\S+)/.exec(printed)?.[1],
    });
    this.#address = this.#process.ready;
  }

  /** Its data stays. */
  async halt(): Promise<void> {
    await this.#process?.stop('SIGTERM');
  }

  /** How many points a field has. */
  async count(measurement: string, field: string): Promise<number> {
    const body = new URLSearchParams({ q: `SELECT COUNT("${field}") FROM "${measurement}"`, db: 'downlink' });
    const response = await fetch(`${this.url}/query`, { method: 'POST', body });
    const { results } = (await response.json()) as { results: { series?: { values: [string, number][] }[] }[] };
    return results[0]?.series?.[0]?.values[0]?.[1] ?? 0;
  }

  async remove(): Promise<void> {
    await this.#process?.stop('SIGKILL');
    await this.#folder.remove();
  }
}

function configOf(folder: string, address: string): string {
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
[monitor]
store-enabled = false
[continuous_queries]
enabled = false
`;
}
