import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from '../../../devices/command.ts';
import type { CommandsQuery, History, Point, ReadingsQuery, RefusedLine, WindowPoint, WindowsQuery } from '../history.ts';
import { command, commands } from './command-queries.ts';
import { InfluxClient, type InfluxOptions } from './influx-client.ts';
import { writeLines } from './influx-write.ts';
import { latest, readings } from './reading-queries.ts';
import { windows } from './window-queries.ts';

/** How long a start waits for an InfluxDB that does not answer. */
const OPEN_WAIT_MS = 2_000;

/** History in InfluxDB 1.x (or what answers as one). */
export class InfluxHistory implements History {
  readonly #client: InfluxClient;
  readonly #isNear: boolean;

  private constructor(options: InfluxOptions) {
    this.#client = new InfluxClient(options);
    this.#isNear = /^(localhost|127\.|\[::1\])/.test(new URL(options.url).hostname);
  }

  /**
   * Makes the database and its retention policy if they are not there. When InfluxDB does not answer they are made before the first use
   * instead: see check. Throws TypeError when the URL is none.
   */
  static async open(options: InfluxOptions): Promise<InfluxHistory> {
    const history = new InfluxHistory(options);
    const waited = new AbortController();
    await Promise.race([
      history.#client.ready().catch(() => {}),
      delay(OPEN_WAIT_MS, undefined, { signal: waited.signal }).catch(() => {}),
    ]);
    waited.abort();
    return history;
  }

  append(lines: Buffer): Promise<RefusedLine[]> {
    return writeLines(this.#client, lines, this.#isNear);
  }

  readings(query: ReadingsQuery): Promise<Point[]> {
    return readings(this.#client, query);
  }

  windows(query: WindowsQuery): Promise<WindowPoint[]> {
    return windows(this.#client, query);
  }

  latest(deviceId: string): Promise<Map<string, Point>> {
    return latest(this.#client, deviceId);
  }

  commands(query: CommandsQuery): Promise<Command[]> {
    return commands(this.#client, query);
  }

  command(id: string): Promise<Command | undefined> {
    return command(this.#client, id);
  }

  async devices(limit: number): Promise<string[]> {
    const [rows = []] = await this.#client.query([`SHOW TAG VALUES FROM telemetry, command WITH KEY = device LIMIT ${limit}`]);
    return [...new Set(rows.map((row) => String(row['value'])))].toSorted().slice(0, limit);
  }

  /** Asks the database something small, since a ping would not notice a wrong password or a dropped database. */
  async check(): Promise<void> {
    await this.#client.query(['SHOW MEASUREMENTS LIMIT 1']);
  }

  /** InfluxDB has a backup command of its own. */
  snapshot(): undefined {}

  async close(): Promise<void> {
    this.#client.close();
  }
}
