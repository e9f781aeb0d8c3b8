import { connect as connectTcp } from 'node:net';
import { once } from 'node:events';
import mqtt from 'mqtt';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer, type MqttDevice } from './live-server.ts';

let server: LiveServer;
let nth = 0;

beforeAll(async () => {
  server = await LiveServer.start();
});

afterAll(() => server.close());

/** A device of its own for each test, connected and subscribed. */
async function pushDevice(): Promise<MqttDevice & { token: string }> {
  const { id, token } = await newDevice();
  const device = await server.connect(id, token);
  await device.subscribe('commands');
  await device.subscribe('errors');
  return Object.assign(device, { token });
}

async function newDevice(more: Record<string, unknown> = {}): Promise<{ id: string; token: string }> {
  nth += 1;
  const id = `device-${nth}`;
  return { id, token: await server.createDevice(id, more) };
}

describe('a connected device', () => {
  test('gets a command as soon as it is issued; its PUBACK makes it delivered, its report ends it', async () => {
    const device = await pushDevice();
    const issued = await server.issue(device.id, { name: 'set_target', params: { celsius: 21 } });
    const { topic, body } = await device.next();
    expect(topic).toBe(`devices/${device.id}/commands`);
    expect(body).toMatchObject({ id: issued.id, name: 'set_target', params: { celsius: 21 }, attempt: 1 });
    expect(Date.parse(String(body['expiresAt']))).toBeGreaterThan(Date.parse(String(body['issuedAt'])));
    const delivered = await server.commandIn(issued.id, 'delivered');
    expect(delivered).toMatchObject({ transport: 'mqtt', attempts: 1 });
    await device.publish(`commands/${issued.id}`, { state: 'running', progress: 50 });
    expect(await server.command(issued.id)).toMatchObject({ state: 'running', progress: 50 });
    await device.publish(`commands/${issued.id}`, { state: 'succeeded', result: { celsius: 21 } });
    expect(await server.command(issued.id)).toMatchObject({ state: 'succeeded', result: { celsius: 21 } });
    await device.end();
  });

  test('gets what is open when it subscribes, by priority and then in the order of issue', async () => {
    const { id, token } = await newDevice();
    for (const [name, priority] of [
      ['a', 'normal'],
      ['b', 'low'],
      ['c', 'urgent'],
      ['d', 'normal'],
    ])
      await server.issue(id, { name, priority });
    const device = await server.connect(id, token);
    await device.subscribe('commands');
    const names: unknown[] = [];
    for (let i = 0; i < 4; i += 1) names.push((await device.next()).body['name']);
    expect(names).toEqual(['c', 'a', 'd', 'b']);
    await device.end();
  });

  test('has at most eight unconfirmed commands on the wire', async () => {
    const { id, token } = await newDevice();
    for (let i = 0; i < 12; i += 1) await server.issue(id, { name: `n${i}` });
    const acknowledge: (() => void)[] = [];
    const device = await server.connect(id, token);
    device.client.handleMessage = (_, done) => acknowledge.push(() => done());
    await device.subscribe('commands');
    const inState = async (state: string): Promise<number> =>
      (await server.request<{ commands: unknown[] }>('GET', `/v1/devices/${id}/commands?state=${state}`)).body.commands.length;
    while ((await inState('sent')) < 8) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await inState('queued')).toBe(4);
    while (acknowledge.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    const handled = async (): Promise<number> => inState('delivered');
    while ((await handled()) < 12) {
      acknowledge.shift()?.();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await device.end();
  });

  test('that goes away without PUBACK gets the command again when it is back', async () => {
    const device = await pushDevice();
    device.client.handleMessage = () => {};
    const issued = await server.issue(device.id, { name: 'reboot' });
    await server.commandIn(issued.id, 'sent');
    device.vanish();
    await server.commandIn(issued.id, 'queued');
    const again = await server.connect(device.id, device.token);
    await again.subscribe('commands');
    expect((await again.next()).body).toMatchObject({ id: issued.id, attempt: 2 });
    await server.commandIn(issued.id, 'delivered');
    await again.end();
  });

  test('that goes away without PUBACK gets the command over HTTP if it comes that way', async () => {
    const device = await pushDevice();
    device.client.handleMessage = () => {};
    const issued = await server.issue(device.id, { name: 'reboot' });
    await server.commandIn(issued.id, 'sent');
    device.vanish();
    await server.commandIn(issued.id, 'queued');
    const pulled = await server.request<{ commands: { id: string }[] }>('GET', '/v1/device/commands', {
      credential: device.token,
    });
    expect(pulled.body.commands.map(({ id }) => id)).toEqual([issued.id]);
  });

  test('with a kept session gets what is open on reconnect without subscribing anew', async () => {
    const { id, token } = await newDevice();
    const first = await server.connect(id, token, { clean: false });
    await first.subscribe('commands');
    await first.end();
    const issued = await server.issue(id, { name: 'later' });
    const second = await server.connect(id, token, { clean: false });
    expect((await second.next()).body).toMatchObject({ id: issued.id });
    await server.commandIn(issued.id, 'delivered');
    await second.end();
  });

  test('that subscribes with QoS 0 is never called delivered before it says something', async () => {
    const { id, token } = await newDevice();
    const device = await server.connect(id, token);
    await device.subscribe('commands', 0);
    const issued = await server.issue(id, { name: 'blink' });
    expect((await device.next()).body).toMatchObject({ id: issued.id });
    expect((await server.command(issued.id)).state).toBe('sent');
    await device.publish(`commands/${issued.id}`, { state: 'succeeded' });
    expect(await server.command(issued.id)).toMatchObject({ state: 'succeeded' });
    await device.end();
  });

  test('gets a binary payload octet for octet', async () => {
    const octets = Buffer.from(Array.from({ length: 32_768 }, (_, i) => (i * 7) % 256));
    const device = await pushDevice();
    await server.issue(device.id, { name: 'flash', payload: octets.toString('base64'), contentType: 'application/octet-stream' });
    const { body } = await device.next();
    expect(Buffer.from(String(body['payload']), 'base64').equals(octets)).toBe(true);
    expect(body).toMatchObject({ contentType: 'application/octet-stream' });
    await device.end();
  });

  test('keeps a hundred commands issued at once in order and loses none', async () => {
    const device = await pushDevice();
    const issued = await Promise.all(Array.from({ length: 100 }, (_, i) => server.issue(device.id, { name: 'n', params: i })));
    const got: string[] = [];
    while (got.length < 100) got.push(String((await device.next()).body['id']));
    expect(got).toEqual([...got].toSorted((a, b) => (a < b ? -1 : 1)));
    expect(new Set(got)).toEqual(new Set(issued.map(({ id }) => id)));
    await device.end();
  });
});

describe('a second connection with the same identity', () => {
  test('takes over; commands go to it alone', async () => {
    const first = await pushDevice();
    const second = await server.connect(first.id, first.token);
    await first.closed();
    await second.subscribe('commands');
    const issued = await server.issue(first.id, { name: 'hello' });
    expect((await second.next()).body).toMatchObject({ id: issued.id, attempt: 1 });
    expect(first.pending).toBe(0);
    await second.end();
  });
});

describe('who may connect', () => {
  test.each([
    ['a wrong token', (id: string) => ({ clientId: id, username: id, password: 'dld_wrong' }), 4],
    ['an unknown device', () => ({ clientId: 'nobody', username: 'nobody', password: 'dld_wrong' }), 4],
    ['no password', (id: string) => ({ clientId: id, username: id }), 4],
    [
      'another client id than its username',
      (id: string, token: string) => ({ clientId: 'other', username: id, password: token }),
      2,
    ],
    ['an id that is none', (_: string, token: string) => ({ clientId: 'a/b', username: 'a/b', password: token }), 2],
  ])('%s is refused', async (_, credentials, returnCode) => {
    const { id, token } = await newDevice();
    const connecting = mqtt.connectAsync(`mqtt://127.0.0.1:${server.mqttPort}`, {
      reconnectPeriod: 0,
      ...credentials(id, token),
    });
    await expect(connecting).rejects.toMatchObject({ code: returnCode });
  });

  test('MQTT over WebSocket on the HTTP port works the same', async () => {
    const { id, token } = await newDevice();
    const client = await mqtt.connectAsync(`${server.url.replace('http', 'ws')}/mqtt`, {
      clientId: id,
      username: id,
      password: token,
    });
    const got = new Promise<string>((resolve) => client.on('message', (_topic, payload) => resolve(payload.toString())));
    await client.subscribeAsync(`devices/${id}/commands`, { qos: 1 });
    const issued = await server.issue(id, { name: 'over_websocket' });
    expect(JSON.parse(await got)).toMatchObject({ id: issued.id });
    await server.commandIn(issued.id, 'delivered');
    await client.endAsync();
  });

  test('an upgrade elsewhere than /mqtt is 404', async () => {
    const socket = connectTcp(Number(new URL(server.url).port), '127.0.0.1');
    socket.write('GET /other HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    const [data] = (await once(socket, 'data')) as [Buffer];
    expect(data.toString()).toMatch(/^HTTP\/1\.1 404/);
    socket.destroy();
  });

  test('rotating the token cuts the session at once and refuses the old token', async () => {
    const device = await pushDevice();
    const { body } = await server.request<{ token: string }>('POST', `/v1/devices/${device.id}/token`);
    await device.closed();
    await expect(server.connect(device.id, device.token)).rejects.toMatchObject({ code: 4 });
    const again = await server.connect(device.id, body.token);
    await again.end();
  });

  test('deleting the device cuts the session at once', async () => {
    const device = await pushDevice();
    expect((await server.request('DELETE', `/v1/devices/${device.id}`)).status).toBe(204);
    await device.closed();
  });
});

describe('what a device may not do', () => {
  test('a foreign topic is refused, told, and reaches nobody', async () => {
    const victim = await pushDevice();
    const device = await pushDevice();
    await device.client.publishAsync(`devices/${victim.id}/commands`, '{"id":"forged","name":"open"}', { qos: 1 });
    expect((await device.next()).body).toMatchObject({ code: 'foreign_topic', topic: `devices/${victim.id}/commands` });
    await device.client.publishAsync(`devices/${device.id}/commands`, '{"id":"forged","name":"open"}', { qos: 1 });
    expect((await device.next()).body).toMatchObject({ code: 'unknown_topic' });
    const issued = await server.issue(victim.id, { name: 'real' });
    expect((await victim.next()).body).toMatchObject({ id: issued.id });
    expect(victim.pending + device.pending).toBe(0);
    await device.end();
    await victim.end();
  });

  test.each(['#', 'devices/+/commands', 'devices/other/commands', '$SYS/#', 'devices/other/#'])(
    'subscribing to %s is refused with 0x80',
    async (topic) => {
      const device = await pushDevice();
      const granted = await device.client.subscribeAsync(topic, { qos: 1 }).catch((error: Error) => error);
      expect(granted).toBeInstanceOf(Error);
      expect((await device.next()).body).toMatchObject({ code: 'foreign_topic' });
      await device.end();
    },
  );

  test('a will on a foreign topic comes to nothing', async () => {
    const victim = await pushDevice();
    const { id, token } = await newDevice();
    const device = await server.connect(id, token, {
      will: { topic: `devices/${victim.id}/commands`, payload: Buffer.from('{"id":"forged"}'), qos: 1, retain: true },
    });
    device.vanish();
    await server.request('GET', `/v1/devices/${id}/rejects`);
    const issued = await server.issue(victim.id, { name: 'real' });
    expect((await victim.next()).body).toMatchObject({ id: issued.id });
    await victim.end();
  });

  test('reporting on a command of another device is unknown_command, and changes nothing', async () => {
    const owner = await newDevice();
    const device = await pushDevice();
    const issued = await server.issue(owner.id, { name: 'mine' });
    await device.publish(`commands/${issued.id}`, { state: 'succeeded' });
    expect((await device.next()).body).toMatchObject({ code: 'unknown_command' });
    expect((await server.command(issued.id)).state).toBe('queued');
    await device.end();
  });
});

describe('bad messages', () => {
  test.each<[string, string | Buffer, string]>([
    ['not JSON', '{"a":', 'invalid_json'],
    ['invalid UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), 'invalid_json'],
    ['too deep', '['.repeat(50_000) + ']'.repeat(50_000), 'invalid_json'],
    ['a value of a wrong type', '{"a":null}', 'invalid_telemetry'],
    ['empty', '', 'invalid_json'],
    ['over the limit', `{"a":"${'x'.repeat(262_144)}"}`, 'body_too_large'],
  ])('%s is acknowledged, told and kept among the rejects', async (_, payload, code) => {
    const device = await pushDevice();
    await device.publish('telemetry', payload);
    expect((await device.next()).body).toMatchObject({ code, topic: `devices/${device.id}/telemetry` });
    await device.publish('telemetry', { temperature: 1 });
    const { body } = await server.request<{ rejects: unknown[] }>('GET', `/v1/devices/${device.id}/rejects`);
    expect(body.rejects).toHaveLength(1);
    expect(body.rejects[0]).toMatchObject({ code, transport: 'mqtt' });
    await device.end();
  });

  test('a packet of many megabytes cuts its connection and no other', async () => {
    const healthy = await pushDevice();
    const device = await pushDevice();
    const closed = device.closed();
    device.client.publish(`devices/${device.id}/telemetry`, Buffer.alloc(20 * 1024 * 1024), { qos: 1 }, () => {});
    await closed;
    await healthy.publish('telemetry', { alive: true });
    await healthy.end();
  });

  test('a repeated report is harmless; another one on a finished command is told as command_finished', async () => {
    const device = await pushDevice();
    const issued = await server.issue(device.id, { name: 'once' });
    await device.next();
    await device.publish(`commands/${issued.id}`, { state: 'succeeded' });
    await device.publish(`commands/${issued.id}`, { state: 'succeeded' });
    await device.publish(`commands/${issued.id}`, { state: 'failed' });
    expect((await device.next()).body).toMatchObject({
      code: 'command_finished',
      topic: `devices/${device.id}/commands/${issued.id}`,
    });
    expect((await server.command(issued.id)).state).toBe('succeeded');
    await device.end();
  });
});

describe('telemetry', () => {
  test('is there to be queried once it is acknowledged, with either QoS', async () => {
    const device = await pushDevice();
    await device.publish('telemetry', { ts: Date.now() - 2_000, values: { temperature: 20 } }, 1);
    await device.publish('telemetry', [{ temperature: 21 }, { temperature: 22 }], 2);
    const { body } = await server.request<{ points: { value: number }[] }>(
      'GET',
      `/v1/devices/${device.id}/telemetry?metric=temperature`,
    );
    expect(body.points.map(({ value }) => value)).toEqual([20, 21, 22]);
    await device.end();
  });

  test('of a will is stored when its device goes away without a word', async () => {
    const { id, token } = await newDevice();
    const device = await server.connect(id, token, {
      will: { topic: `devices/${id}/telemetry`, payload: Buffer.from('{"online":false}'), qos: 1, retain: false },
    });
    await device.subscribe('commands');
    await device.subscribe('errors');
    device.vanish();
    const path = `/v1/devices/${id}/telemetry?metric=online`;
    for (let points: unknown[] = []; points.length === 0;) {
      points = (await server.request<{ points: unknown[] }>('GET', path)).body.points;
    }
  });

  test('of one device in one millisecond is all kept', async () => {
    const device = await pushDevice();
    await Promise.all(Array.from({ length: 500 }, (_, i) => device.publish('telemetry', { n: i })));
    const { body } = await server.request<{ points: { value: number }[] }>('GET', `/v1/devices/${device.id}/telemetry?metric=n`);
    expect(body.points.map(({ value }) => value)).toEqual(Array.from({ length: 500 }, (_, i) => i));
    await device.end();
  });
});
