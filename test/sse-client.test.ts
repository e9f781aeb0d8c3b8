import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ExecutedCommands } from '../simulators/client/executed-commands.ts';
import { SseClient, type SseClientOptions } from '../simulators/client/sse-client.ts';
import { allOf, ClientWorkload } from './client-workload.ts';
import { lossyFetch, newSeed, seeded, TcpProxy } from './faulty-network.ts';
import { LiveServer } from './live-server.ts';

/** The client for event streams against the live server, with HTTP behind a proxy. */
let server: LiveServer;
let http: TcpProxy;
let nth = 0;
const clients: SseClient[] = [];

beforeAll(async () => {
  server = await LiveServer.start();
});

beforeEach(async () => {
  http = await new TcpProxy(() => Number(new URL(server.url).port)).start();
});

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.stop()));
  await http.close();
});

afterAll(() => server.close());

async function register(more: Record<string, unknown> = {}): Promise<{ id: string; token: string }> {
  nth += 1;
  const id = `streamer-${nth}`;
  return { id, token: await server.createDevice(id, more) };
}

function sse(token: string, more: Partial<SseClientOptions> = {}): SseClient {
  const client = new SseClient({
    url: `http://127.0.0.1:${http.port}`,
    token,
    reconnect: { minMs: 50, maxMs: 500 },
    ...more,
  });
  clients.push(client);
  return client;
}

describe('a client for event streams', () => {
  test('carries out what was waiting and what is issued, and sends what it measures', async () => {
    const device = await register();
    const waiting = await server.issue(device.id, { name: 'ping' });
    const client = sse(device.token);
    client.onCommand('ping', () => 'pong');
    await client.start();
    const { id } = await server.issue(device.id, { name: 'ping' });
    for (const command of [waiting.id, id]) {
      expect(await server.commandIn(command, 'succeeded')).toMatchObject({ result: 'pong', attempts: 1 });
    }
    expect(await client.telemetry({ level: 1 })).toBe('stored');
  });

  test('has more commands at work than the server sends at a time', async () => {
    const device = await register();
    const client = sse(device.token);
    let begun = 0;
    client.onCommand('wait', (_, { signal }) => {
      begun += 1;
      return new Promise((resolve) => signal.addEventListener('abort', resolve));
    });
    await client.start();
    for (let i = 0; i < 20; i += 1) await server.issue(device.id, { name: 'wait' });
    await expect.poll(() => begun, { timeout: 30_000 }).toBe(20);
  });

  test('resumes behind the last command on record, and executes once what comes again', async () => {
    const device = await register();
    const executed = new ExecutedCommands();
    let runs = 0;
    const client = sse(device.token, { executed });
    client.onCommand('count', () => (runs += 1));
    await client.start();
    for (let i = 1; i <= 5; i += 1) {
      const { id } = await server.issue(device.id, { name: 'count' });
      await server.commandIn(id, 'succeeded');
      expect(executed.cursor).toHaveLength(32);
      http.cut();
    }
    expect(runs).toBe(5);
  });

  test('starts again without a place that the server does not know', async () => {
    const device = await register();
    const executed = new ExecutedCommands();
    executed.cursor = 'A'.repeat(32);
    const client = sse(device.token, { executed });
    client.onCommand('ping', () => 'pong');
    await client.start();
    const { id } = await server.issue(device.id, { name: 'ping' });
    await server.commandIn(id, 'succeeded');
  });

  test('pulls what is over the limit of what is pushed to it', async () => {
    const device = await register({ limits: { pushBytes: 300 } });
    const client = sse(device.token);
    client.onCommand('show', ({ params }) => params);
    await client.start();
    const { id } = await server.issue(device.id, { name: 'show', params: 'x'.repeat(400) });
    expect(await server.commandIn(id, 'succeeded')).toMatchObject({ attempts: 1 });
  });

  test('says on start that its token is refused', async () => {
    await expect(sse(`dld_${'A'.repeat(43)}`).start()).rejects.toThrow('refuses the token');
  });

  test('sends what waits before it stops, though it was to be left in peace for a while', async () => {
    const device = await register();
    let refusals = 1;
    const client = sse(device.token, {
      fetch: (input, init) => {
        if (init?.method !== 'POST' || refusals === 0) return fetch(input, init);
        refusals -= 1;
        return Promise.resolve(new Response('{}', { status: 503, headers: { 'retry-after': '3600' } }));
      },
    });
    await client.start();
    const sent = client.telemetry({ level: 1 });
    await expect.poll(() => refusals).toBe(0);
    await client.stop();
    expect(await sent).toBe('stored');
  });

  test(
    'carries out each command once, reports all, and stores all samples on a network that loses three of ten',
    { timeout: 240_000 },
    async () => {
      const seed = newSeed();
      const random = seeded(seed);
      const device = await register({ limits: { leaseSeconds: 1 } });
      const client = sse(device.token, { fetch: lossyFetch(random, 0.3) });
      const workload = new ClientWorkload(server, client, device.id);
      await client.start();
      for (let i = 0; i < 20; i += 1) {
        await workload.add();
        if (random() < 0.3) http.cut();
      }
      expect(await workload.outcome(), `seed ${seed}`).toEqual(allOf(20));
    },
  );
});
