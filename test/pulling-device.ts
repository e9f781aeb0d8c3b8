import type { Answer, LiveServer } from './live-server.ts';

/** A device of one test: it is issued commands, and polls and reports by HTTP. */
type Pulled = { commands?: { id: string; name: string; attempt: number }[]; more: boolean; cursor: string };

export class PullingDevice {
  readonly id: string;
  readonly token: string;
  readonly #server: LiveServer;

  private constructor(server: LiveServer, id: string, token: string) {
    this.#server = server;
    this.id = id;
    this.token = token;
  }

  static async register(server: LiveServer, id: string, more: Record<string, unknown> = {}): Promise<PullingDevice> {
    return new PullingDevice(server, id, await server.createDevice(id, more));
  }

  /** Answers the command's id. */
  async issue(name: string, more: Record<string, unknown> = {}): Promise<string> {
    return (await this.#server.issue(this.id, { name, ...more })).id;
  }

  poll(query = ''): Promise<Answer<Pulled>> {
    return this.#server.request<Pulled>('GET', `/v1/device/commands${query}`, { credential: this.token });
  }

  report(commandId: string, state = 'succeeded'): Promise<Answer> {
    return this.#server.request('POST', `/v1/device/commands/${commandId}`, { body: { state }, credential: this.token });
  }
}

/** What a poll brought. */
export function commandsIn({ body }: Answer<Pulled>): NonNullable<Pulled['commands']> {
  return body.commands ?? [];
}
