import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ExecutedCommands } from '../simulators/client/executed-commands.ts';
import { HybridClient, type HybridClientOptions } from '../simulators/client/hybrid-client.ts';
import { allOf, ClientWorkload } from './client-workload.ts';
import { lossyFetch, newSeed, seeded, TcpProxy } from './faulty-network.ts';
import { LiveServer } from './live-server.ts';

/** The hybrid client against the live server, with MQTT behind a proxy that refuses, swallows and comes back. */
let server: LiveServer;
let folder: string;
let mqtt: TcpProxy;
let nth = 0;
const clients: HybridClient[] = [];

beforeAll(async () => {
  server = await LiveServer.start();
  folder = await mkdtemp(join(tmpdir(), 'downlink-hybrid-'));
});

beforeEach(async () => {
  mqtt = await new TcpProxy(() => server.mqttPort).start();
});

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.stop()));
  await mqtt.close();
});

afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

type Device = { readonly id: string; readonly token: string };

async function register(more: Record<string, unknown> = {}): Promise<Device> {
  nth += 1;
  const id = `hybrid-${nth}`;
  return { id, token: await server.createDevice(id, more) };
}

/** A client of the device, of which each switch is noted. */
function hybrid({ id, token }: Device, more: Partial<HybridClientOptions> = {}) {
  const switches: string[] = [];
  const client = new HybridClient({
    mqttUrl: `mqtt://127.0.0.1:${mqtt.port}`,
    url: server.url,
    deviceId: id,
    token,
    keepaliveSeconds: 4,
    reconnect: { minMs: 100, maxMs: 500 },
    events: { switched: (to) => switches.push(to) },
    ...more,
  });
  client.onCommand('count', ({ id: commandId }) => commandId);
  clients.push(client);
  return { client, switches };
}

async function carriedOut(device: Device): Promise<unknown> {
  const { id } = await server.issue(device.id, { name: 'count' });
  return server.commandIn(id, 'succeeded');
}

async function count(deviceId: string, metric: string): Promise<number> {
  const path = `/v1/devices/${deviceId}/telemetry?metric=${metric}&fn=count&from=0`;
  const { body } = await server.request<{ points: { count: number }[] }>('GET', path);
  return body.points[0]?.count ?? 0;
}

describe('a hybrid client', () => {
  test('is pushed to while MQTT is there', async () => {
    const device = await register();
    const { client, switches } = hybrid(device);
    await client.start();
    expect(client.way).toBe('push');
    expect(await carriedOut(device)).toMatchObject({ transport: 'mqtt', attempts: 1 });
    expect(await client.telemetry({ level: 1 })).toBe('stored');
    expect(switches).toEqual([]);
  });

  test.each(['refusing', 'swallowing'] as const)(
    'pulls while the way to MQTT is %s from the start, and is pushed to when it is not any more',
    async (mode) => {
      const device = await register();
      await mqtt.set(mode);
      const { client, switches } = hybrid(device);
      await client.start();
      expect(client.way).toBe('pull');
      expect(await carriedOut(device)).toMatchObject({ transport: 'http' });
      expect(await client.telemetry({ level: 1 })).toBe('stored');
      await mqtt.set('passing');
      mqtt.cut();
      await expect.poll(() => switches, { timeout: 30_000 }).toEqual(['pull', 'push']);
      await expect.poll(() => client.way).toBe('push');
      expect(await carriedOut(device)).toBeDefined();
    },
  );

  test.each(['refusing', 'swallowing'] as const)(
    'goes over to pulling within one keepalive when MQTT is %s, and comes back',
    async (mode) => {
      const device = await register();
      const { client, switches } = hybrid(device);
      await client.start();
      expect(await carriedOut(device)).toMatchObject({ transport: 'mqtt' });
      await mqtt.set(mode);
      // Issued while nobody knows yet: pushed into nowhere, and pulled.
      const lost = await server.issue(device.id, { name: 'count' });
      const reading = client.telemetry({ level: 1 });
      await expect.poll(() => switches, { timeout: 30_000 }).toEqual(['pull']);
      expect(await carriedOut(device)).toMatchObject({ transport: 'http' });
      expect(await reading).toBe('stored');
      await server.commandIn(lost.id, 'succeeded');
      await mqtt.set('passing');
      mqtt.cut();
      await expect.poll(() => switches, { timeout: 30_000 }).toEqual(['pull', 'push']);
      expect(await carriedOut(device)).toBeDefined();
    },
  );

  test('notices a dead connection although it talks into it all the time', async () => {
    const device = await register();
    const { client, switches } = hybrid(device);
    await client.start();
    await mqtt.set('swallowing');
    const sent: Promise<string>[] = [];
    const timer = setInterval(() => sent.push(client.telemetry({ level: sent.length })), 100);
    await expect.poll(() => switches, { timeout: 30_000 }).toEqual(['pull']);
    clearInterval(timer);
    expect(new Set(await Promise.all(sent))).toEqual(new Set(['stored']));
    expect(await count(device.id, 'level')).toBe(sent.length);
  });

  test('pulls no more when it is pushed to again', async () => {
    const device = await register();
    await mqtt.set('refusing');
    let polls = 0;
    const { client, switches } = hybrid(device, {
      pull: { waitSeconds: 1 },
      fetch: (input, init) => {
        polls += 1;
        return fetch(input, init);
      },
    });
    await client.start();
    await mqtt.set('passing');
    await expect.poll(() => switches, { timeout: 30_000 }).toEqual(['pull', 'push']);
    // The last one goes on to its end.
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    const before = polls;
    await new Promise((resolve) => setTimeout(resolve, 2_500));
    expect(polls).toBe(before);
    expect(await carriedOut(device)).toMatchObject({ transport: 'mqtt', attempts: 1 });
  });

  test('pulls what is over the limit of what is pushed to it', async () => {
    const device = await register({ limits: { pushBytes: 300 } });
    const { client, switches } = hybrid(device);
    client.onCommand('show', ({ params }) => params);
    await client.start();
    const { id } = await server.issue(device.id, { name: 'show', params: 'x'.repeat(400) });
    expect(await server.commandIn(id, 'succeeded')).toMatchObject({ result: 'x'.repeat(400), attempts: 1 });
    expect(client.way).toBe('push');
    expect(switches).toEqual([]);
  });

  test('keeps on pulling by the way it is told to', async () => {
    const device = await register({ wake: { everySeconds: 1 } });
    await mqtt.set('refusing');
    const { client } = hybrid(device, { pull: { ask: 'sync', schedule: { everySeconds: 0.2 } } });
    await client.start();
    expect(await carriedOut(device)).toMatchObject({ transport: 'http' });
    expect(await client.telemetry({ level: 1 })).toBe('stored');
  });

  test('says on start that its token is refused, whichever way is there', async () => {
    const { id } = await register();
    const token = `dld_${'A'.repeat(43)}`;
    await expect(hybrid({ id, token }).client.start()).rejects.toThrow(`refuses the token of ${id}`);
    await mqtt.set('refusing');
    await expect(hybrid({ id, token }).client.start()).rejects.toThrow(`refuses the token of ${id}`);
  });

  test('says over the other way what it could not say over the one', async () => {
    const device = await register();
    const { client } = hybrid(device);
    let finish: (() => void) | undefined;
    client.onCommand('slow', () => new Promise<string>((resolve) => (finish = () => resolve('done'))));
    await client.start();
    const { id } = await server.issue(device.id, { name: 'slow' });
    await server.commandIn(id, 'delivered');
    await mqtt.set('refusing');
    finish?.();
    expect(await server.commandIn(id, 'succeeded')).toMatchObject({ result: 'done', transport: 'mqtt' });
  });

  test('loses nothing and does nothing twice while the network does its worst', { timeout: 240_000 }, async () => {
    const seed = newSeed();
    const random = seeded(seed);
    const device = await register({ limits: { leaseSeconds: 2 } });
    const path = join(folder, `${device.id}.json`);
    const { client, switches } = hybrid(device, {
      fetch: lossyFetch(random, 0.3),
      executed: await ExecutedCommands.open(path),
    });
    const workload = new ClientWorkload(server, client, device.id);
    await client.start();
    const modes = ['refusing', 'passing', 'swallowing', 'passing', 'refusing', 'passing'] as const;
    for (const mode of modes) {
      for (let i = 0; i < 5; i += 1) {
        await workload.add();
        if (random() < 0.3) mqtt.cut();
        await new Promise((resolve) => setTimeout(resolve, random() * 200));
      }
      await mqtt.set(mode);
      if (mode === 'passing') mqtt.cut();
      else await expect.poll(() => client.way, { timeout: 30_000 }).toBe('pull');
    }
    const context = `seed ${seed}`;
    expect(await workload.outcome(), context).toEqual(allOf(30));
    expect(switches.length, context).toBeGreaterThan(1);
    expect(client.counts).toMatchObject({ samplesDropped: 0, samplesRefused: 0, reportsDropped: 0 });
  });
});
