import { once } from 'node:events';
import mqtt from 'mqtt';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { EventSource } from './event-source.ts';
import { LiveServer, MqttDevice, TestClock } from './live-server.ts';
import { commandsIn, PullingDevice } from './pulling-device.ts';

/** Notify, then pull: against a live server whose clock stands still until it is moved. */
type Told = { deferral?: { reason: string; bytes?: number; bytesMax?: number } };

let clock: TestClock;
let server: LiveServer;
let own: PullingDevice;
let id: string;
let token: string;
let nth = 0;

beforeAll(async () => {
  clock = new TestClock(Date.parse('2026-05-01T10:10:00Z'));
  server = await LiveServer.start({}, clock);
});
afterAll(() => server.close());
beforeEach(() => register());

async function register(limits: Record<string, number> = {}): Promise<void> {
  own = await PullingDevice.register(server, `lamp-${(nth += 1)}`, { limits });
  ({ id, token } = own);
}

const LARGE = { params: { text: 'x'.repeat(1_000) } };

async function subscribed(...kinds: ('commands' | 'notify')[]): Promise<MqttDevice> {
  const device = await server.connect(id, token);
  for (const kind of kinds) await device.subscribe(kind);
  return device;
}

/** Nothing came but what was asked for: a message that the device is sent now is the next that comes. */
async function expectNothingMore(device: MqttDevice): Promise<void> {
  await device.subscribe('errors');
  await device.publish('telemetry', '{');
  expect((await device.next()).topic).toBe(`devices/${id}/errors`);
}

describe('a device that subscribes to notify and not to commands', () => {
  test('is told of a command, on the topic and in the form of the wire, and pulls it', async () => {
    const device = await subscribed('notify');
    const commandId = await own.issue('show');
    expect(await device.next()).toEqual({ topic: `devices/${id}/notify`, body: { pending: 1, urgent: false } });
    expect((await own.poll()).body.commands).toMatchObject([{ id: commandId }]);
    await expectNothingMore(device);
    await device.end();
  });

  test('is told when it subscribes and something waits, and of what is urgent', async () => {
    await own.issue('a');
    await own.issue('b', { priority: 'urgent' });
    const device = await subscribed('notify');
    expect((await device.next()).body).toEqual({ pending: 2, urgent: true });
    await device.end();
  });

  test('is told when a kept session comes back', async () => {
    const first = await server.connect(id, token, { clean: false });
    await first.subscribe('notify');
    await first.end();
    await own.issue('later');
    const second = await server.connect(id, token, { clean: false });
    expect((await second.next()).body).toEqual({ pending: 1, urgent: false });
    await second.end();
  });

  test('is told in few messages of many commands', async () => {
    const device = await subscribed('notify');
    await Promise.all(Array.from({ length: 100 }, (_, i) => own.issue(`n${i}`)));
    const first = await device.next();
    expect(first.body['pending']).toBeGreaterThanOrEqual(1);
    clock.advance(1_000);
    let last = first;
    let count = 1;
    while (last.body['pending'] !== 100) {
      last = await device.next();
      count += 1;
    }
    expect(count).toBeLessThanOrEqual(3);
    await device.end();
  });

  test('is told at once again after it has pulled', async () => {
    const device = await subscribed('notify');
    for (let i = 0; i < 5; i += 1) {
      await own.issue(`n${i}`);
      expect((await device.next()).body).toEqual({ pending: 1, urgent: false });
      expect(commandsIn(await own.poll())).toMatchObject([{ name: `n${i}` }]);
    }
    await device.end();
  });

  test('is told again when the lease of what it pulled lapses', async () => {
    const device = await subscribed('notify');
    await own.issue('a');
    await device.next();
    await own.poll();
    clock.advance(30_000);
    expect((await device.next()).body).toEqual({ pending: 1, urgent: false });
    await device.end();
  });

  test('and never pulls is told less and less often, and at once when something urgent comes, one time', async () => {
    const device = await subscribed('notify');
    let told = 0;
    const seconds = 600;
    device.client.on('message', () => (told += 1));
    for (let second = 0; second < seconds; second += 10) {
      await own.issue('a', { key: 'a' });
      clock.advance(10_000);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    // 1 + 2 + 4 + 8 + 16 + 32 s, then once a minute.
    expect(told).toBeGreaterThan(2);
    expect(told).toBeLessThanOrEqual(7 + seconds / 60);
    const before = told;
    await own.issue('b', { priority: 'urgent' });
    while (told === before) await new Promise((resolve) => setTimeout(resolve, 10));
    await own.issue('c', { priority: 'urgent' });
    await own.issue('d');
    await device.publish('telemetry', { alive: true });
    expect(told).toBe(before + 1);
    await device.end();
  });

  test('with QoS 0 is told with QoS 0, and with QoS 1 with QoS 1', async () => {
    for (const qos of [0, 1] as const) {
      await register();
      const device = await server.connect(id, token);
      await device.subscribe('notify', qos);
      const came = new Promise<number>((resolve) => device.client.on('message', (_, __, packet) => resolve(packet.qos)));
      await own.issue('a');
      expect(await came).toBe(qos);
      await device.end();
    }
  });

  test('that unsubscribes is told no more', async () => {
    const device = await subscribed('notify');
    await device.client.unsubscribeAsync(`devices/${id}/notify`);
    await own.issue('a');
    await expectNothingMore(device);
    await device.end();
  });

  test('is told nothing of another device', async () => {
    const device = await subscribed('notify');
    await server.createDevice(`${id}-other`);
    await server.issue(`${id}-other`, { name: 'a' });
    await expectNothingMore(device);
    await device.end();
  });
});

describe('a device with pushBytes', () => {
  beforeEach(() => register({ pushBytes: 500 }));

  test('that subscribes to both is pushed what is small and told of what is large, which holds up nothing behind it', async () => {
    const large = await own.issue('large', { ...LARGE, priority: 'urgent' });
    const small = await own.issue('small');
    const device = await subscribed('commands', 'notify');
    const messages = [await device.next(), await device.next()];
    expect(messages).toContainEqual({ topic: `devices/${id}/notify`, body: { pending: 1, urgent: true } });
    expect(messages.find(({ topic }) => topic.endsWith('/commands'))?.body).toMatchObject({ id: small });
    expect(commandsIn(await own.poll())).toMatchObject([{ name: 'large' }]);
    expect(await server.command(large)).toMatchObject({ state: 'sent', transport: 'http' });
    await device.end();
  });

  test('that subscribes to commands alone is not told; the large one waits for a pull, and its operator sees why', async () => {
    const device = await subscribed('commands');
    const large = await own.issue('large', LARGE);
    const small = await own.issue('small');
    expect((await device.next()).body).toMatchObject({ id: small });
    const { deferral } = (await server.command(large)) as Told;
    expect(deferral).toMatchObject({ reason: 'over_push_bytes', bytesMax: 500 });
    expect(deferral?.bytes).toBeGreaterThan(1_000);
    await expectNothingMore(device);
    expect(commandsIn(await own.poll())).toMatchObject([{ name: 'large' }]);
    expect(((await server.command(large)) as Told).deferral).toBeUndefined();
    await device.end();
  });

  test('has the limit taken by the octets of the message, to the octet', async () => {
    const device = await subscribed('commands');
    await own.issue('measured', { params: { text: 'ü'.repeat(50) } });
    const { body } = await device.next();
    const bytes = Buffer.byteLength(JSON.stringify(body));
    await server.request('PATCH', `/v1/devices/${id}`, { body: { limits: { pushBytes: bytes } } });
    await own.issue('measured', { params: { text: 'ü'.repeat(50) } });
    expect((await device.next()).body).toMatchObject({ name: 'measured' });
    await server.request('PATCH', `/v1/devices/${id}`, { body: { limits: { pushBytes: bytes - 1 } } });
    const over = await own.issue('measured', { params: { text: 'ü'.repeat(50) } });
    expect(((await server.command(over)) as Told).deferral).toMatchObject({ bytes, bytesMax: bytes - 1 });
    await device.end();
  });

  test('is pushed what waited when the limit is raised, and told when it is lowered', async () => {
    const device = await subscribed('commands', 'notify');
    const large = await own.issue('large', LARGE);
    expect((await device.next()).body).toEqual({ pending: 1, urgent: false });
    await server.request('PATCH', `/v1/devices/${id}`, { body: { limits: {} } });
    expect((await device.next()).body).toMatchObject({ id: large });
    await device.end();
  });

  test('of 0 is pushed nothing at all', async () => {
    await register({ pushBytes: 0 });
    const device = await subscribed('commands', 'notify');
    await own.issue('tiny');
    expect((await device.next()).body).toEqual({ pending: 1, urgent: false });
    await expectNothingMore(device);
    await device.end();
  });

  test('that follows events has a notify event of what is large', async () => {
    const stream = await EventSource.open(server, token);
    await own.issue('large', LARGE);
    expect(await stream.next()).toMatchObject({ name: 'notify', body: { pending: 1, urgent: false } });
    expect(commandsIn(await own.poll())).toMatchObject([{ name: 'large' }]);
    stream.close();
  });

  test('with a pull that says more of a command than that it is large, keeps what the pull said', async () => {
    const device = await subscribed('commands');
    const large = await own.issue('large', LARGE);
    expect((await own.poll('?maxBytes=600')).status).toBe(204);
    await own.issue('small');
    await device.next();
    expect(((await server.command(large)) as Told).deferral).toMatchObject({ reason: 'larger_than_max_bytes', bytesMax: 600 });
    await device.end();
  });
});

test('a device that takes commands as events and is notified over MQTT is notified of nothing that comes as an event', async () => {
  const device = await subscribed('notify');
  const stream = await EventSource.open(server, token);
  const commandId = await own.issue('a');
  expect((await stream.next()).body).toMatchObject({ id: commandId });
  await expectNothingMore(device);
  stream.close();
  expect((await device.next()).body).toEqual({ pending: 1, urgent: false });
  await device.end();
});

describe('MQTT over WebSocket', () => {
  const connect = (options: Record<string, unknown> = {}): Promise<MqttDevice> =>
    mqtt
      .connectAsync(`${server.url.replace('http', 'ws')}/mqtt`, {
        clientId: id,
        username: id,
        password: token,
        reconnectPeriod: 0,
        ...options,
      })
      .then((client) => new MqttDevice(id, client));

  test('notifies and pushes as over TCP, a payload of many frames included', async () => {
    const device = await connect();
    await device.subscribe('notify');
    await own.issue('a');
    expect((await device.next()).body).toEqual({ pending: 1, urgent: false });
    await own.poll();
    await device.subscribe('commands');
    const payload = Buffer.alloc(32_768, 5).toString('base64');
    await own.issue('b', { payload, params: undefined });
    expect((await device.next()).body).toMatchObject({ name: 'b', payload });
    await device.end();
  });

  test.each([
    ['mqtt', ['mqtt'], 'mqtt'],
    ['mqtt among others', ['mqttv3.1', 'mqtt'], 'mqtt'],
    ['nothing', [], ''],
  ])('a client that offers %s is answered with that [MQTT-6.0.0-4]', async (_, offered, chosen) => {
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/mqtt`, offered);
    await once(socket, 'open');
    expect(socket.protocol).toBe(chosen);
    socket.terminate();
  });

  test('a text frame ends the connection [MQTT-6.0.0-1]', async () => {
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/mqtt`, ['mqtt']);
    await once(socket, 'open');
    socket.send('hello');
    const [code] = (await once(socket, 'close')) as [number];
    expect(code).toBe(1003);
  });
});
