import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as mqttConnect, type IClientOptions, type MqttClient } from 'mqtt';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { ClientEvents, DeviceClient } from '../simulators/client/device-client.ts';
import { ExecutedCommands } from '../simulators/client/executed-commands.ts';
import { PullClient, type PullClientOptions } from '../simulators/client/pull-client.ts';
import { PushClient, type PushClientOptions } from '../simulators/client/push-client.ts';
import { LiveServer } from './live-server.ts';

let server: LiveServer;
let folder: string;
let nth = 0;
const clients: DeviceClient[] = [];

beforeAll(async () => {
  server = await LiveServer.start();
  folder = await mkdtemp(join(tmpdir(), 'downlink-client-'));
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
  const id = `client-${nth}`;
  return { id, token: await server.createDevice(id, more) };
}

function push({ id, token }: { id: string; token: string }, more: Partial<PushClientOptions> = {}): PushClient {
  const client = new PushClient({ url: `mqtt://127.0.0.1:${server.mqttPort}`, deviceId: id, token, ...more });
  clients.push(client);
  return client;
}

function pull({ token }: { token: string }, more: Partial<PullClientOptions> = {}): PullClient {
  const client = new PullClient({ url: server.url, token, schedule: 'manual', ...more });
  clients.push(client);
  return client;
}

/** Resolves when `event` has happened `times` times. */
function happened(event: keyof ClientEvents, times = 1): { events: ClientEvents; done: Promise<void> } {
  let left = times;
  let resolve: (() => void) | undefined;
  const done = new Promise<void>((settle) => (resolve = settle));
  return { events: { [event]: () => (left -= 1) === 0 && resolve?.() }, done };
}

type Packet = { readonly cmd: string; readonly topic?: string };

/** Cuts the connection at the first `times` packets of a kind, before they are written. */
function cutAt(matches: (packet: Packet) => boolean, times = 1): (url: string, options: IClientOptions) => MqttClient {
  let left = times;
  return (url, options) => {
    const client = mqttConnect(url, options);
    client.on('packetsend', (packet) => {
      if (left === 0 || !matches(packet)) return;
      left -= 1;
      client.stream.destroy();
    });
    return client;
  };
}

function isReport({ cmd, topic }: Packet): boolean {
  return cmd === 'publish' && topic?.includes('/commands/') === true;
}

function isTelemetry({ cmd, topic }: Packet): boolean {
  return cmd === 'publish' && topic?.endsWith('/telemetry') === true;
}

async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as AddressInfo;
  listener.close();
  await once(listener, 'close');
  return port;
}

async function count(deviceId: string, metric: string): Promise<number> {
  for (;;) {
    const path = `/v1/devices/${deviceId}/telemetry?metric=${metric}&fn=count&from=0`;
    const { body } = await server.request<{ points: { count: number }[] }>('GET', path);
    if (body.points[0] !== undefined) return body.points[0].count;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe('a push client', () => {
  test('carries out what is issued and what was waiting, and reports it', async () => {
    const device = await register();
    const waiting = await server.issue(device.id, { name: 'start', params: { rpm: 5 } });
    const client = push(device);
    client.onCommand('start', ({ params }) => ({ started: params }));
    client.onCommand('stop', () => {
      throw new Error('stuck');
    });
    await client.start();
    const stop = await server.issue(device.id, { name: 'stop' });
    const unknown = await server.issue(device.id, { name: 'dance' });
    expect(await server.commandIn(waiting.id, 'succeeded')).toMatchObject({
      transport: 'mqtt',
      result: { started: { rpm: 5 } },
      attempts: 1,
    });
    expect(await server.commandIn(stop.id, 'failed')).toMatchObject({ message: 'stuck' });
    await server.commandIn(unknown.id, 'rejected');
  });

  test('gets the octets of a binary command as they were issued', async () => {
    const device = await register();
    const octets = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const client = push(device);
    client.onCommand('flash', ({ payload, contentType }) => ({ same: payload?.equals(octets), contentType }));
    await client.start();
    const flash = await server.issue(device.id, {
      name: 'flash',
      payload: octets.toString('base64'),
      contentType: 'application/x-firmware',
    });
    expect(await server.commandIn(flash.id, 'succeeded')).toMatchObject({
      result: { same: true, contentType: 'application/x-firmware' },
    });
  });

  test('executes once what comes twice because the acknowledgement was lost', async () => {
    const device = await register();
    const twice = happened('received', 2);
    let runs = 0;
    const client = push(device, { events: twice.events, connect: cutAt(({ cmd }) => cmd === 'puback') });
    client.onCommand('count', () => (runs += 1));
    await client.start();
    const command = await server.issue(device.id, { name: 'count' });
    await twice.done;
    expect(await server.commandIn(command.id, 'succeeded')).toMatchObject({ result: 1 });
    expect(runs).toBe(1);
  });

  test('sends a report again that a lost connection swallowed', async () => {
    const device = await register();
    const client = push(device, {
      connect: cutAt(isReport),
    });
    client.onCommand('ping', () => 'pong');
    await client.start();
    const command = await server.issue(device.id, { name: 'ping' });
    expect(await server.commandIn(command.id, 'succeeded')).toMatchObject({ result: 'pong' });
  });

  test('sends readings again that a lost connection swallowed, as the same readings', async () => {
    const device = await register();
    const client = push(device, {
      connect: cutAt(isTelemetry),
    });
    await client.start();
    const sent = await Promise.all(Array.from({ length: 20 }, (_, i) => client.telemetry({ level: i })));
    expect(sent).toEqual(sent.map(() => 'stored'));
    expect(await count(device.id, 'level')).toBe(20);
  });

  test('keeps what it has to say while the server is away, and says it afterwards', async () => {
    const [mqttPort, httpPort] = [await freePort(), await freePort()];
    const restarted = await LiveServer.start({ mqttPort, httpPort });
    try {
      const token = await restarted.createDevice('tank');
      const client = push({ id: 'tank', token }, { url: `mqtt://127.0.0.1:${mqttPort}` });
      client.onCommand('ping', () => 'pong');
      await client.start();
      const sent: Promise<string>[] = [];
      await restarted.restart(() => sent.push(client.telemetry({ level: 1 }), client.telemetry({ level: 2 })));
      expect(await Promise.all(sent)).toEqual(['stored', 'stored']);
      const command = await restarted.issue('tank', { name: 'ping' });
      await restarted.commandIn(command.id, 'succeeded');
    } finally {
      await restarted.close();
    }
  });

  test('says on start that its token is refused', async () => {
    const { id } = await register();
    await expect(push({ id, token: `dld_${'A'.repeat(43)}` }).start()).rejects.toThrow(`refuses the token of ${id}`);
  });

  test('hears what the server refused', async () => {
    const device = await register();
    const problems: string[] = [];
    const client = push(device, { events: { problem: ({ message }) => problems.push(message) } });
    await client.start();
    await client.telemetry({ 'not a metric': 1 });
    await expect.poll(() => problems).toMatchObject([expect.stringContaining('invalid_telemetry')]);
  });

  test('reports after a restart what it could not report before', async () => {
    const device = await register();
    const path = join(folder, `${device.id}.json`);
    const cut = happened('disconnected');
    const first = push(device, {
      executed: await ExecutedCommands.open(path),
      events: cut.events,
      connect: cutAt(isReport, Infinity),
    });
    first.onCommand('once', () => 'the first time');
    await first.start();
    const command = await server.issue(device.id, { name: 'once' });
    await cut.done;
    await first.stop();
    const second = push(device, { executed: await ExecutedCommands.open(path) });
    second.onCommand('once', () => 'a second time');
    await second.start();
    expect(await server.commandIn(command.id, 'succeeded')).toMatchObject({ result: 'the first time' });
  });

  test('does not start again what a restart interrupted, and says so', async () => {
    const device = await register();
    const path = join(folder, `${device.id}.json`);
    const first = push(device, { executed: await ExecutedCommands.open(path) });
    first.onCommand('slow', () => new Promise(() => {}));
    await first.start();
    const command = await server.issue(device.id, { name: 'slow' });
    await server.commandIn(command.id, 'delivered');
    await first.stop();
    const second = push(device, { executed: await ExecutedCommands.open(path) });
    second.onCommand('slow', () => 'a second time');
    await second.start();
    expect(await server.commandIn(command.id, 'failed')).toMatchObject({ message: expect.stringContaining('restart') as string });
  });
});

describe('a pull client', () => {
  test('takes all that is queued in one wake, however little fits a request', async () => {
    const device = await register({ wake: { everySeconds: 3_600 } });
    const order: string[] = [];
    const client = pull(device, { limit: 2 });
    client.onCommand('show', ({ params }) => order.push(JSON.stringify(params)));
    await client.start();
    const issued = [];
    for (const params of ['a', 'b', 'c', 'd', 'e']) issued.push(await server.issue(device.id, { name: 'show', params }));
    await client.wake();
    expect(order).toEqual(['"a"', '"b"', '"c"', '"d"', '"e"']);
    for (const { id } of issued)
      expect(await server.command(id)).toMatchObject({ state: 'succeeded', transport: 'http', attempts: 1 });
  });

  test('sends what it measured between two wakes, in messages the server takes', async () => {
    const device = await register({ wake: { everySeconds: 3_600 } });
    const client = pull(device);
    await client.start();
    const sent = Array.from({ length: 2_500 }, (_, i) => client.telemetry({ litres: i, ok: true }));
    await client.wake();
    expect(new Set(await Promise.all(sent))).toEqual(new Set(['stored']));
    expect(await count(device.id, 'litres')).toBe(2_500);
  });

  test('executes once, and reports until it is heard, when answers are lost', async () => {
    const device = await register({ wake: { everySeconds: 3_600 }, limits: { leaseSeconds: 1 } });
    const lost = { pull: 1, report: 2 };
    let runs = 0;
    const client = pull(device, {
      fetch: async (input, init) => {
        const response = await fetch(input, init);
        const what = init?.method === 'POST' ? 'report' : 'pull';
        if (lost[what] === 0 || response.status === 204) return response;
        lost[what] -= 1;
        throw new TypeError('the answer was lost');
      },
    });
    client.onCommand('count', () => (runs += 1));
    await client.start();
    const { id } = await server.issue(device.id, { name: 'count' });
    await client.wake();
    expect(await server.command(id)).toMatchObject({ state: 'sent' });
    await server.commandIn(id, 'queued');
    await client.wake();
    expect(await server.commandIn(id, 'succeeded')).toMatchObject({ attempts: 2, result: 1 });
    expect(lost).toEqual({ pull: 0, report: 0 });
    expect(runs).toBe(1);
  });

  test('says that it is at work on what takes long, so that nobody sends it again', async () => {
    const device = await register({ wake: { everySeconds: 3_600 } });
    let finish: ((value: string) => void) | undefined;
    const client = pull(device);
    client.onCommand('prime', () => new Promise((resolve) => (finish = resolve)));
    await client.start();
    const { id } = await server.issue(device.id, { name: 'prime' });
    const wake = client.wake();
    await server.commandIn(id, 'running');
    finish?.('primed');
    await wake;
    expect(await server.command(id)).toMatchObject({ state: 'succeeded', result: 'primed' });
  });

  test.each([
    ['when the server asks it to', 'server'],
    ['by an interval of its own', { everySeconds: 1 }],
    ['by a cron expression of its own', { cron: '* * * * * *' }],
  ] as const)('wakes %s', async (_what, schedule) => {
    const device = await register({ wake: { everySeconds: 1 } });
    const client = pull(device, { schedule });
    client.onCommand('ping', () => 'pong');
    await client.start();
    const { id } = await server.issue(device.id, { name: 'ping' });
    expect(await server.commandIn(id, 'succeeded')).toMatchObject({ result: 'pong' });
  });

  test('says on start that its token is refused', async () => {
    await expect(pull({ token: `dld_${'A'.repeat(43)}` }).start()).rejects.toThrow('refuses the token');
  });

  test('tells a program what the server would not take', async () => {
    const device = await register();
    const problem = happened('problem');
    const client = pull(device, { events: problem.events });
    await client.start();
    const sent = client.telemetry({ 'not a metric': 1 });
    await client.wake();
    expect(await sent).toBe('refused');
    await problem.done;
  });
});
