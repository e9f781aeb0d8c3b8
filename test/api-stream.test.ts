import { request as httpRequest, type IncomingMessage } from 'node:http';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem, keyFor } from './api-support.ts';
import { ADMIN_KEY, LiveServer } from './live-server.ts';

type StreamEvent = { id: string; event: string; data: Record<string, unknown> };

/** A client of /v1/stream whose events are waited for one by one. */
class StreamClient {
  lastId = '';
  readonly headers: IncomingMessage['headers'];
  readonly #response: IncomingMessage;
  readonly #events: StreamEvent[] = [];
  #text = '';
  #arrived: () => void = () => {};

  private constructor(response: IncomingMessage) {
    this.#response = response;
    this.headers = response.headers;
    response.setEncoding('utf8').on('data', (chunk: string) => this.#take(chunk));
    response.on('error', () => {});
    response.on('close', () => this.#arrived());
  }

  static async open(
    server: LiveServer,
    query = '',
    options: { key?: string; headers?: Record<string, string> } = {},
  ): Promise<StreamClient> {
    const { key = ADMIN_KEY, headers } = options;
    const request = httpRequest(`${server.url}/v1/stream${query}`, {
      headers: { authorization: `Bearer ${key}`, ...headers },
      agent: false,
    });
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    if (response.statusCode !== 200) throw new Error(`the stream was answered ${response.statusCode}`);
    const client = new StreamClient(response);
    while (client.lastId === '') await client.#more();
    return client;
  }

  async next(): Promise<StreamEvent> {
    for (;;) {
      const event = this.#events.shift();
      if (event !== undefined) return event;
      await this.#more();
    }
  }

  /** Events that came and were not asked for. */
  get pending(): number {
    return this.#events.length;
  }

  /** All that was said, once the server has ended the stream. */
  async ended(): Promise<string> {
    while (!this.#response.closed) await this.#more();
    return this.said;
  }

  said = '';

  pause(): void {
    this.#response.pause();
  }

  resume(): void {
    this.#response.resume();
  }

  close(): void {
    this.#response.destroy();
  }

  async #more(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#arrived = resolve;
    });
  }

  #take(chunk: string): void {
    this.said = (this.said + chunk).slice(-1_000);
    this.#text += chunk;
    const blocks = this.#text.split('\n\n');
    this.#text = blocks.pop() ?? '';
    for (const block of blocks) {
      const fields = new Map(
        block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
      );
      const id = fields.get('id');
      if (id !== undefined) this.lastId = id;
      const data = fields.get('data');
      if (data !== undefined) {
        this.#events.push({ id: id ?? '', event: fields.get('event') ?? '', data: JSON.parse(data) as Record<string, unknown> });
      }
    }
    this.#arrived();
  }
}

let server: LiveServer;
let token: string;
let other: string;

beforeAll(async () => {
  server = await LiveServer.start();
  token = await server.createDevice('one');
  other = await server.createDevice('two');
});

afterAll(() => server.close());

const send = (body: unknown, credential = token) => server.request('POST', '/v1/device/telemetry', { credential, body });

describe('the stream', () => {
  test('is server-sent events that no proxy keeps', async () => {
    const stream = await StreamClient.open(server);
    expect(stream.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store, no-transform',
    });
    stream.close();
  });

  test('tells of telemetry, with what was measured', async () => {
    const stream = await StreamClient.open(server, '?type=telemetry');
    await send({ ts: Date.now(), values: { temperature: 21.5, mode: 'a\n\nevent: x' } });
    const { event, data, id } = await stream.next();
    expect({ event, data }).toEqual({
      event: 'telemetry',
      data: { device: 'one', time: expect.stringMatching(/Z$/), values: { temperature: 21.5, mode: 'a\n\nevent: x' } },
    });
    expect(id).toMatch(/^[^-]+-\d+$/);
    stream.close();
  });

  test('tells of each step of a command, in order, with the command as it then was', async () => {
    const stream = await StreamClient.open(server, '?type=command&device=one');
    const { id } = await server.issue('one', { name: 'blink' });
    await server.request('GET', '/v1/device/commands', { credential: token });
    await server.request('POST', `/v1/device/commands/${id}`, { credential: token, body: { state: 'succeeded', result: 1 } });
    const steps = [await stream.next(), await stream.next(), await stream.next()];
    expect(steps.map(({ data }) => [data['device'], data['from'], data['to']])).toEqual([
      ['one', 'none', 'queued'],
      ['one', 'queued', 'sent'],
      ['one', 'sent', 'succeeded'],
    ]);
    expect(steps[2]?.data['command']).toMatchObject({ id, state: 'succeeded', result: 1, queuedAt: expect.stringMatching(/Z$/) });
    expect(JSON.stringify(steps)).not.toMatch(/historyNs|leaseUntil|reportBy/);
    stream.close();
  });

  test('tells of presence', async () => {
    const fresh = await server.createDevice('fresh', { wake: { everySeconds: 3_600 } });
    const stream = await StreamClient.open(server, '?type=presence&device=fresh');
    await server.request('GET', '/v1/device/commands', { credential: fresh });
    expect((await stream.next()).data).toMatchObject({
      device: 'fresh',
      from: 'never',
      to: 'asleep',
      presence: { state: 'asleep', missedWakes: 0, nextWakeAt: expect.any(String) },
    });
    stream.close();
  });

  test('tells of presence that a new schedule changes', async () => {
    const resting = await server.createDevice('resting', { limits: { silentSeconds: 1 } });
    await server.request('GET', '/v1/device/commands', { credential: resting });
    const stream = await StreamClient.open(server, '?type=presence&device=resting');
    expect((await stream.next()).data).toMatchObject({ from: 'asleep', to: 'lost' });
    await server.request('PATCH', '/v1/devices/resting', { body: { wake: { everySeconds: 3_600 } } });
    expect((await stream.next()).data).toMatchObject({ from: 'lost', to: 'asleep' });
    stream.close();
  });

  test('shows only the types and devices that are asked for, repeated or with commas', async () => {
    await send({ a: 0 }, other);
    const [byType, byDevice, byBoth] = await Promise.all([
      StreamClient.open(server, '?type=command,presence&type=presence'),
      StreamClient.open(server, '?device=two&device=three,four'),
      StreamClient.open(server, '?type=telemetry&device=two'),
    ]);
    await send({ a: 1 });
    await send({ a: 2 }, other);
    await server.issue('one', { name: 'x' });
    await server.issue('two', { name: 'y' });
    expect((await byType.next()).data).toMatchObject({ device: 'one', command: { name: 'x' } });
    expect((await byBoth.next()).data).toMatchObject({ device: 'two', values: { a: 2 } });
    expect([await byDevice.next(), await byDevice.next()].map(({ event, data }) => [event, data['device']])).toEqual([
      ['telemetry', 'two'],
      ['command', 'two'],
    ]);
    for (const stream of [byType, byDevice, byBoth]) stream.close();
  });

  test.each([
    ['?type=weather', 'query.type'],
    ['?type=', 'query.type'],
    ['?device=a%20b', 'query.device'],
    ['?metric=a', 'query.metric'],
  ])('%s is refused', async (query, at) => {
    expectProblem(await server.request('GET', `/v1/stream${query}`), 'invalid_request', at);
  });
});

describe('a stream that was cut', () => {
  test('goes on after the last event it saw, by header or parameter', async () => {
    const first = await StreamClient.open(server, '?type=telemetry');
    await send({ n: 1 });
    const { id } = await first.next();
    first.close();
    await send([{ n: 2 }, { n: 3 }]);
    for (const [query, headers] of [
      ['', { 'last-event-id': id }],
      [`&lastEventId=${id}`, {}],
    ] as const) {
      const again = await StreamClient.open(server, `?type=telemetry${query}`, { headers });
      expect((await again.next()).data['values']).toEqual({ n: 2 });
      expect((await again.next()).data['values']).toEqual({ n: 3 });
      await send({ n: 4 });
      expect((await again.next()).data['values']).toEqual({ n: 4 });
      again.close();
    }
  });

  test('that had seen nothing goes on from where it began', async () => {
    const first = await StreamClient.open(server, '?type=telemetry&device=two');
    const { lastId } = first;
    first.close();
    await send({ n: 5 }, other);
    const again = await StreamClient.open(server, '?type=telemetry&device=two', { headers: { 'last-event-id': lastId } });
    const { event, data } = await again.next();
    expect({ event, values: data['values'] }).toEqual({ event: 'telemetry', values: { n: 5 } });
    again.close();
  });

  test('is told to start afresh when what it missed is gone', async () => {
    const first = await StreamClient.open(server, '?type=telemetry');
    await send({ n: 0 });
    const { id } = await first.next();
    await Promise.all(Array.from({ length: 20 }, () => send(Array.from({ length: 1_000 }, () => ({ n: 1 })))));
    first.close();
    const again = await StreamClient.open(server, '?type=telemetry', { headers: { 'last-event-id': id } });
    const reset = await again.next();
    expect(reset).toMatchObject({ event: 'reset', data: { reason: 'too_old' } });
    await send({ n: 6 });
    expect((await again.next()).data['values']).toEqual({ n: 6 });
    again.close();
  });

  test.each(['nonsense', 'other-5', '', '-1', '12'])('with the id "%s" of no run or another is told so', async (id) => {
    const stream = await StreamClient.open(server, `?lastEventId=${id}`);
    expect(await stream.next()).toMatchObject({ event: 'reset', data: { reason: 'other_run' } });
    stream.close();
  });

  test('by a restart is told so', async () => {
    const own = await LiveServer.start();
    const first = await StreamClient.open(own);
    const { lastId } = first;
    const ended = first.ended();
    await own.restart();
    expect(await ended).toContain(': the server is stopping');
    const again = await StreamClient.open(own, '', { headers: { 'last-event-id': lastId } });
    expect((await again.next()).data).toEqual({ reason: 'other_run' });
    again.close();
    await own.close();
  });
});

describe('bounds', () => {
  test('a client that reads slower than events come is told what it missed, and holds nobody up', async () => {
    const slow = await StreamClient.open(server, '?type=telemetry');
    const quick = await StreamClient.open(server, '?type=telemetry');
    slow.pause();
    const text = 'x'.repeat(1_000);
    let sent = 0;
    for (let i = 0; i < 30; i += 1) {
      await send(Array.from({ length: 200 }, () => ({ n: (sent += 1), text })));
      for (let j = 0; j < 200; j += 1) await quick.next();
    }
    for (let i = 0; i < 30; i += 1) await send(Array.from({ length: 1_000 }, () => ({ n: (sent += 1) })));
    slow.resume();
    let last = 0;
    for (;;) {
      const { event, data } = await slow.next();
      if (event === 'reset') {
        expect(data).toEqual({ reason: 'overflow' });
        break;
      }
      const { n } = data['values'] as { n: number };
      expect(n).toBe(last + 1);
      last = n;
    }
    expect(last).toBeLessThan(sent);
    await send({ n: -1 });
    for (;;) {
      const { data } = await slow.next();
      if ((data['values'] as { n: number }).n === -1) break;
    }
    slow.close();
    quick.close();
  });

  test('one stream more than there may be is 503, and a closed one makes room', async () => {
    const own = await LiveServer.start();
    const streams: StreamClient[] = [];
    for (let i = 0; i < 1_000; i += 50) {
      streams.push(...(await Promise.all(Array.from({ length: 50 }, () => StreamClient.open(own)))));
    }
    const refused = await own.request('GET', '/v1/stream');
    expectProblem(refused, 'too_many_streams');
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    streams.pop()?.close();
    for (;;) {
      const text = await (await fetch(`${own.url}/metrics`)).text();
      if (text.includes('downlink_live_streams 999\n')) break;
    }
    streams.push(await StreamClient.open(own));
    for (const stream of streams) stream.close();
    await own.close();
  });

  test('a revoked key’s streams end, and no other', async () => {
    const { id, secret } = await keyFor(server, 'viewer');
    const theirs = await StreamClient.open(server, '', { key: secret });
    const ours = await StreamClient.open(server, '?type=telemetry');
    const ended = theirs.ended();
    await server.request('DELETE', `/v1/keys/${id}`);
    expect(await ended).toContain(': the key was revoked');
    await send({ n: 7 });
    expect((await ours.next()).data['values']).toEqual({ n: 7 });
    ours.close();
  });
});
