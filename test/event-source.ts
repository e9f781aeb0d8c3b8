import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { sseParser, type SseEvent } from '../simulators/sse-parser.ts';
import type { LiveServer } from './live-server.ts';

/** A device's stream of server-sent events over a connection of its own, whose events are waited for one by one. */
export class EventSource {
  /** Of the last event, whether it was asked for or not. */
  lastId: string | undefined;
  /** All that came. */
  said = '';
  readonly response: IncomingMessage;
  readonly #events: SseEvent[] = [];
  #arrived: () => void = () => {};

  private constructor(response: IncomingMessage) {
    this.response = response;
    const parse = sseParser((event) => {
      this.lastId = event.id ?? this.lastId;
      this.#events.push(event);
    });
    response.setEncoding('utf8').on('data', (text: string) => {
      this.said += text;
      parse(text);
      this.#arrived();
    });
    response.on('error', () => {});
    response.on('close', () => this.#arrived());
  }

  /** Opens `/v1/device/events`; one that is refused rejects with the status and the problem's code. */
  static async open(server: LiveServer, token: string, lastEventId?: string): Promise<EventSource> {
    const response = await EventSource.ask(server, token, lastEventId);
    const source = new EventSource(response);
    if (response.statusCode === 200) return source;
    await source.ended();
    throw new Error(`${response.statusCode} ${(JSON.parse(source.said) as { code: string }).code}`);
  }

  static async ask(server: LiveServer, token: string, lastEventId?: string): Promise<IncomingMessage> {
    const request = httpRequest(`${server.url}/v1/device/events`, {
      headers: {
        authorization: `Bearer ${token}`,
        ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
      },
      agent: false,
    });
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    return response;
  }

  /** The next event's name and data. */
  async next(): Promise<{ name: string; id: string | undefined; body: Record<string, unknown> }> {
    for (;;) {
      const event = this.#events.shift();
      if (event !== undefined) return { name: event.name, id: event.id, body: JSON.parse(event.data) as Record<string, unknown> };
      if (this.response.closed) throw new Error('the stream has ended');
      await this.#more();
    }
  }

  /** Events that came and were not asked for. */
  get pending(): number {
    return this.#events.length;
  }

  /** Once the server has ended the stream. */
  async ended(): Promise<void> {
    while (!this.response.closed) await this.#more();
  }

  close(): void {
    this.response.destroy();
  }

  async #more(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#arrived = resolve;
    });
  }
}
