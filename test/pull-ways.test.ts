import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceClient } from '../simulators/client/device-client.ts';
import { ExecutedCommands } from '../simulators/client/executed-commands.ts';
import { PullClient, type PullClientOptions } from '../simulators/client/pull-client.ts';
import { PushClient, type NotifyOptions } from '../simulators/client/push-client.ts';
import { allOf, ClientWorkload } from './client-workload.ts';
import { lossyFetch, newSeed, seeded } from './faulty-network.ts';
import { LiveServer } from './live-server.ts';

/** The ways a pull client asks, against the live server: how many requests each takes, what it confirms, and what a lossy network does to it. */
let server: LiveServer;
let folder: string;
let nth = 0;
const clients: DeviceClient[] = [];

beforeAll(async () => {
  server = await LiveServer.start();
  folder = await mkdtemp(join(tmpdir(), 'downlink-pull-'));
});

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.stop()));
});

afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

async function register(more: Record<string, unknown> = {}): Promise<{ id: string; token: string }> {
  nth += 1;
  const id = `puller-${nth}`;
  return { id, token: await server.createDevice(id, { wake: { everySeconds: 3_600 }, ...more }) };
}

function pull(token: string, more: Partial<PullClientOptions>): PullClient {
  const client = new PullClient({ url: server.url, token, ...(more.ask !== 'long-poll' && { schedule: 'manual' }), ...more });
  clients.push(client);
  return client;
}

function notified({ id, token }: { id: string; token: string }, notify: Partial<NotifyOptions>): PushClient {
  const client = new PushClient({
    url: `mqtt://127.0.0.1:${server.mqttPort}`,
    deviceId: id,
    token,
    notify: { url: server.url, ...notify },
  });
  client.onCommand('show', ({ params }) => params);
  clients.push(client);
  return client;
}

/** `fetch` that keeps what went to and fro. */
function watched(): { fetch: typeof fetch; seen: { method: string; path: string; status: number }[] } {
  const seen: { method: string; path: string; status: number }[] = [];
  return {
    seen,
    fetch: async (input, init) => {
      const response = await fetch(input, init);
      const { pathname, search } = new URL(input instanceof Request ? input.url : input);
      seen.push({ method: init?.method ?? 'GET', path: pathname + search, status: response.status });
      return response;
    },
  };
}

async function count(deviceId: string, metric: string): Promise<number> {
  const path = `/v1/devices/${deviceId}/telemetry?metric=${metric}&fn=count&from=0`;
  const { body } = await server.request<{ points: { count: number }[] }>('GET', path);
  return body.points[0]?.count ?? 0;
}

describe('a conditional pull', () => {
  test('gets 304 while nothing is queued, and what comes then', async () => {
    const device = await register();
    const { fetch, seen } = watched();
    const client = pull(device.token, { ask: 'conditional', fetch });
    client.onCommand('ping', () => 'pong');
    await client.start();
    await client.wake();
    await client.wake();
    expect(seen.map(({ status }) => status)).toEqual([204, 304, 304]);
    const { id } = await server.issue(device.id, { name: 'ping' });
    await client.wake();
    expect(await server.command(id)).toMatchObject({ state: 'succeeded', attempts: 1 });
    await client.wake();
    expect(seen.at(-1)).toMatchObject({ method: 'GET', status: 304 });
  });

  test('reports what takes long as running', async () => {
    const device = await register();
    const client = pull(device.token, { ask: 'conditional' });
    client.onCommand('slow', (_, { signal }) => new Promise((resolve) => signal.addEventListener('abort', resolve)));
    await client.start();
    const { id } = await server.issue(device.id, { name: 'slow' });
    void client.wake();
    await server.commandIn(id, 'running');
  });

  test('forgets a cursor that the server does not know, and goes on', async () => {
    const device = await register();
    const executed = new ExecutedCommands();
    executed.cursor = 'A'.repeat(32);
    const client = pull(device.token, { ask: 'conditional', executed });
    client.onCommand('ping', () => 'pong');
    await client.start();
    const { id } = await server.issue(device.id, { name: 'ping' });
    await client.wake();
    expect(await server.command(id)).toMatchObject({ state: 'succeeded' });
    expect(executed.cursor).not.toBe('A'.repeat(32));
  });
});

describe('a long poll', () => {
  test('brings a command while it waits, and asks again at once', async () => {
    const device = await register();
    const { fetch, seen } = watched();
    const client = pull(device.token, { ask: 'long-poll', schedule: 'always', fetch });
    client.onCommand('ping', () => 'pong');
    await client.start();
    for (let i = 0; i < 3; i += 1) {
      const { id } = await server.issue(device.id, { name: 'ping' });
      expect(await server.commandIn(id, 'succeeded')).toMatchObject({ attempts: 1 });
    }
    expect(seen.filter(({ path }) => path.includes('wait=60')).length).toBeGreaterThanOrEqual(3);
  });

  test('sends what it measures meanwhile', async () => {
    const device = await register();
    const client = pull(device.token, { ask: 'long-poll' });
    await client.start();
    expect(await Promise.all([client.telemetry({ level: 1 }), client.telemetry({ level: 2 })])).toEqual(['stored', 'stored']);
  });

  test('ends when the client stops', async () => {
    const device = await register();
    const client = pull(device.token, { ask: 'long-poll' });
    await client.start();
    await expect
      .poll(async () => (await server.request('GET', `/v1/devices/${device.id}`)).body)
      .toMatchObject({ presence: { state: 'waiting' } });
    await client.stop();
    await expect
      .poll(async () => (await server.request('GET', `/v1/devices/${device.id}`)).body)
      .not.toMatchObject({ presence: { state: 'waiting' } });
  });
});

describe('a one-trip wake', () => {
  test('takes one request when nothing is queued, whatever was measured', async () => {
    const device = await register();
    const { fetch, seen } = watched();
    const client = pull(device.token, { ask: 'sync', fetch });
    await client.start();
    const sent = Array.from({ length: 50 }, (_, i) => client.telemetry({ litres: i }));
    await client.wake();
    expect(new Set(await Promise.all(sent))).toEqual(new Set(['stored']));
    expect(seen).toEqual(seen.map(() => ({ method: 'POST', path: '/v1/device/sync', status: 200 })));
    expect(seen).toHaveLength(2);
  });

  test('reports in the same wake what is quickly done, in a second request', async () => {
    const device = await register();
    const { fetch, seen } = watched();
    const client = pull(device.token, { ask: 'sync', fetch });
    client.onCommand('show', ({ params }) => params);
    await client.start();
    const issued = [
      await server.issue(device.id, { name: 'show', params: 'a' }),
      await server.issue(device.id, { name: 'sing' }),
    ];
    seen.length = 0;
    await client.wake();
    expect(await server.command(issued[0]?.id ?? '')).toMatchObject({ state: 'succeeded', result: 'a', attempts: 1 });
    expect(await server.command(issued[1]?.id ?? '')).toMatchObject({ state: 'rejected', attempts: 1 });
    expect(seen).toHaveLength(2);
  });

  test('confirms in the same wake what takes long', async () => {
    const device = await register();
    const client = pull(device.token, { ask: 'sync', lingerSeconds: 0.05 });
    client.onCommand('slow', (_, { signal }) => new Promise((resolve) => signal.addEventListener('abort', resolve)));
    await client.start();
    const { id } = await server.issue(device.id, { name: 'slow' });
    void client.wake();
    expect(await server.commandIn(id, 'delivered')).toMatchObject({ attempts: 1 });
  });

  test('confirms and reports with the next wake when it may not linger', async () => {
    const device = await register();
    const { fetch, seen } = watched();
    const client = pull(device.token, { ask: 'sync', fetch, lingerSeconds: 0 });
    client.onCommand('show', ({ params }) => params);
    await client.start();
    const { id } = await server.issue(device.id, { name: 'show', params: 'a' });
    seen.length = 0;
    await client.wake();
    expect(await server.command(id)).toMatchObject({ state: 'sent' });
    await client.wake();
    expect(await server.command(id)).toMatchObject({ state: 'succeeded', result: 'a', attempts: 1 });
    expect(seen).toHaveLength(2);
  });

  test('takes all that is queued, however little fits an answer', async () => {
    const device = await register();
    const order: unknown[] = [];
    const client = pull(device.token, { ask: 'sync', maxBytes: 600 });
    client.onCommand('show', ({ params }) => void order.push(params));
    await client.start();
    for (let i = 0; i < 8; i += 1) await server.issue(device.id, { name: 'show', params: i });
    await client.wake();
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test('loses nothing but the sample at fault when the server will not take one of many', async () => {
    const device = await register();
    const client = pull(device.token, { ask: 'sync' });
    client.onCommand('ping', () => 'pong');
    await client.start();
    const { id } = await server.issue(device.id, { name: 'ping' });
    const sent = Array.from({ length: 20 }, (_, i) => client.telemetry(i === 13 ? { 'not a metric': i } : { litres: i }));
    await client.wake();
    expect(await Promise.all(sent)).toEqual(sent.map((_, i) => (i === 13 ? 'refused' : 'stored')));
    expect(await server.command(id)).toMatchObject({ state: 'succeeded' });
    expect(await count(device.id, 'litres')).toBe(19);
    expect(client.counts).toMatchObject({ samplesRefused: 1, samplesWaiting: 0, reportsWaiting: 0 });
  });
});

describe('a push client that is notified', () => {
  test('pulls what is over the limit of what is pushed to it, and gets the rest pushed', async () => {
    const device = await register({ limits: { pushBytes: 300 } });
    const client = notified(device, {});
    const waiting = await server.issue(device.id, { name: 'show', params: 'x'.repeat(400) });
    await client.start();
    const small = await server.issue(device.id, { name: 'show', params: 'x' });
    const big = await server.issue(device.id, { name: 'show', params: 'y'.repeat(400) });
    expect(await server.commandIn(small.id, 'succeeded')).toMatchObject({ attempts: 1 });
    for (const { id } of [waiting, big]) {
      const { result, attempts } = await server.commandIn(id, 'succeeded');
      expect([result, attempts]).toEqual([expect.stringMatching(/^[xy]{400}$/), 1]);
    }
  });

  test('pulls all when nothing is to be pushed to it', async () => {
    const device = await register();
    const { fetch, seen } = watched();
    const client = notified(device, { commands: false, fetch });
    await client.start();
    for (let i = 0; i < 3; i += 1) {
      const { id } = await server.issue(device.id, { name: 'show', params: i });
      expect(await server.commandIn(id, 'succeeded')).toMatchObject({ result: i, attempts: 1 });
    }
    expect(seen.filter(({ status }) => status === 200)).toHaveLength(3);
  });
});

test.each(['conditional', 'long-poll', 'sync'] as const)('the cursor of %s is kept over a restart', async (ask) => {
  const device = await register();
  const path = join(folder, `${device.id}.json`);
  const client = pull(device.token, { ask, schedule: 'manual', waitSeconds: 1, executed: await ExecutedCommands.open(path) });
  client.onCommand('ping', () => 'pong');
  await client.start();
  await server.issue(device.id, { name: 'ping' });
  await client.wake();
  await client.stop();
  const { cursor } = JSON.parse(await readFile(path, 'utf8')) as { cursor: string };
  expect((await ExecutedCommands.open(path)).cursor).toBe(cursor);
  expect(cursor).toHaveLength(32);
});

test('a schedule by the server is followed, and what it says while it is away is not needed', async () => {
  const device = await register({ wake: { everySeconds: 1 } });
  const client = pull(device.token, { ask: 'sync', schedule: 'server' });
  client.onCommand('ping', () => 'pong');
  await client.start();
  const { id } = await server.issue(device.id, { name: 'ping' });
  await server.commandIn(id, 'succeeded');
});

describe('with three of ten requests and of answers lost', { timeout: 240_000 }, () => {
  test.each(['plain', 'conditional', 'long-poll', 'sync'] as const)(
    'each command is carried out once, each report arrives and each sample is stored: %s',
    async (ask) => {
      const seed = newSeed();
      const lost = { requests: 0, answers: 0 };
      const device = await register({ limits: { leaseSeconds: 1 } });
      const client = pull(device.token, {
        ask,
        schedule: ask === 'long-poll' ? 'always' : { everySeconds: 0.2 },
        waitSeconds: 2,
        fetch: lossyFetch(seeded(seed), 0.3, lost),
      });
      const workload = new ClientWorkload(server, client, device.id);
      await client.start();
      let added = 0;
      // A client that needs few trips may be lucky at first.
      for (; added < 15 || lost.requests + lost.answers === 0; added += 1) await workload.add();
      expect(await workload.outcome(), `seed ${seed}`).toEqual(allOf(added));
    },
  );
});
