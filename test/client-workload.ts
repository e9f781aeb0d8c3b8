import type { DeviceClient } from '../simulators/client/device-client.ts';
import type { LiveServer } from './live-server.ts';

/** Commands and samples for one client, whatever becomes of its network: each command is to be carried out once and reported, each sample to be stored. */
export class ClientWorkload {
  readonly #server: LiveServer;
  readonly #client: DeviceClient;
  readonly #deviceId: string;
  readonly #runs = new Map<string, number>();
  readonly #issued: string[] = [];
  readonly #sent: Promise<string>[] = [];

  constructor(server: LiveServer, client: DeviceClient, deviceId: string) {
    this.#server = server;
    this.#client = client;
    this.#deviceId = deviceId;
    client.onCommand('count', ({ id }) => {
      this.#runs.set(id, (this.#runs.get(id) ?? 0) + 1);
      return id;
    });
  }

  /** A command and a sample more. */
  async add(): Promise<void> {
    this.#issued.push((await this.#server.issue(this.#deviceId, { name: 'count', maxAttempts: 100 })).id);
    this.#sent.push(this.#client.telemetry({ level: this.#sent.length }));
  }

  /** Once all of it is settled: how many commands were reported with their result, how many ran just once, how many samples were stored, and are there. */
  async outcome(): Promise<{ reported: number; ranOnce: number; stored: number; readings: number }> {
    const ended = [];
    for (const id of this.#issued) ended.push(await this.#server.commandIn(id, 'succeeded'));
    const answers = await Promise.all(this.#sent);
    const path = `/v1/devices/${this.#deviceId}/telemetry?metric=level&fn=count&from=0`;
    const { body } = await this.#server.request<{ points: { count: number }[] }>('GET', path);
    return {
      reported: ended.filter(({ id, result }) => result === id).length,
      ranOnce: this.#issued.filter((id) => this.#runs.get(id) === 1).length,
      stored: answers.filter((answer) => answer === 'stored').length,
      readings: body.points[0]?.count ?? 0,
    };
  }
}

/** The outcome where nothing is lost and nothing done twice. */
export function allOf(count: number): Awaited<ReturnType<ClientWorkload['outcome']>> {
  return { reported: count, ranOnce: count, stored: count, readings: count };
}
