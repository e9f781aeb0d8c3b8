import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Packet } from 'mqtt-packet';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BURST_SECONDS } from '../broker/limits/token-bucket.ts';
import { expectProblem } from './api-support.ts';
import { ServerProcess } from './attacks/server-process.ts';
import { EventSource } from './event-source.ts';
import { logLines } from './healthy-device.ts';
import { ADMIN_KEY, LiveServer } from './live-server.ts';
import { connectRaw, createKey } from './raw-client.ts';

/** A server as it is run, with low bounds: what who reaches one is answered, what `/metrics` counts, and what the log says. */
const BOUNDS = {
  DOWNLINK_DEVICE_STREAMS_PER_DEVICE_MAX: '1',
  DOWNLINK_BACKLOG_BYTES_MAX: '16384',
  DOWNLINK_BODY_BYTES_MAX: '65536',
  DOWNLINK_IN_FLIGHT_PER_CLIENT_MAX: '2',
  DOWNLINK_RECEIVED_MESSAGES_PER_CLIENT_MAX: '3',
  DOWNLINK_HTTP_IDLE_SECONDS_MAX: '2',
  DOWNLINK_STREAM_BACKLOG_BYTES_MAX: '16384',
  DOWNLINK_DEVICE_STREAMS_MAX: '2',
  DOWNLINK_PIPELINED_REQUESTS_MAX: '3',
  DOWNLINK_REGISTRATIONS_PER_SECOND_MAX: '1',
  DOWNLINK_OPERATOR_KEYS_MAX: '6',
  DOWNLINK_FLEET_KEYS_MAX: '2',
  DOWNLINK_AUDIT_ENTRIES_MAX: '100',
};
const INFO = 30;
const DEBUG = 20;
const program = new ServerProcess(BOUNDS);
let server: LiveServer;

beforeAll(async () => {
  server = await LiveServer.start({ logLevel: 'debug' }, undefined, program.start);
});

afterAll(() => server.close());

async function reached(bound: string): Promise<number> {
  return metric(`downlink_bound_reached_total{bound="${bound}"}`);
}

async function metric(name: string): Promise<number> {
  const lines = (await (await fetch(`${server.url}/metrics`)).text()).split('\n');
  return Number(lines.find((line) => line.startsWith(`${name} `))?.slice(name.length));
}

/** The first log line that says so, of whom it names. */
async function logged(bound: string, who: Record<string, string> = {}): Promise<Record<string, unknown>> {
  for (;;) {
    for (const line of logLines(program.printed)) {
      if (!line.includes(`"bound":"${bound}"`) || !line.endsWith('}')) continue;
      const event = JSON.parse(line) as Record<string, unknown>;
      if (Object.entries(who).every(([name, value]) => event[name] === value)) return event;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('device_streams_per_device: with one stream more the oldest ends and says why, and the newest gets the commands', async () => {
  const token = await server.createDevice('streaming');
  const oldest = await EventSource.open(server, token);
  const newest = await EventSource.open(server, token);
  await oldest.ended();
  expect(oldest.said).toContain('newer streams took its place');
  const { id } = await server.issue('streaming', { name: 'show' });
  expect(await newest.next()).toMatchObject({ name: 'command', body: { id } });
  expect(await reached('device_streams_per_device')).toBe(1);
  expect(await logged('device_streams_per_device')).toMatchObject({ level: INFO, device: 'streaming' });
  newest.response.destroy();
});

test('stream_backlog_bytes: a stream that is not read falls behind, and goes on when it is read again', async () => {
  const token = await server.createDevice('talkative');
  const { socket, said } = await open('127.0.0.1');
  socket.write(`GET /v1/stream?type=telemetry HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN_KEY}\r\n\r\n`);
  await once(socket, 'data');
  socket.pause();
  const send = (values: Record<string, unknown>) =>
    server.request('POST', '/v1/device/telemetry', { credential: token, body: values });
  const large = Object.fromEntries(Array.from({ length: 60 }, (_, n) => [`m${n}`, 'x'.repeat(1_000)]));
  while ((await reached('stream_backlog_bytes')) === 0) {
    for (let n = 0; n < 10; n += 1) expect((await send(large)).status).toBe(202);
  }
  expect(await logged('stream_backlog_bytes')).toMatchObject({ level: INFO, key: 'admin' });
  socket.resume();
  // What it missed may be too much to be made up for.
  while (!said().includes('"newest"')) expect((await send({ newest: 1 })).status).toBe(202);
  socket.destroy();
});

test('device_streams: one more is 503 and told when to come back, and let in when another has gone', async () => {
  while ((await metric('downlink_device_streams')) > 0);
  const tokens = await Promise.all(['s1', 's2', 's3'].map((id) => server.createDevice(id)));
  const [one, two] = [await EventSource.open(server, tokens[0]!), await EventSource.open(server, tokens[1]!)];
  const refused = await EventSource.ask(server, tokens[2]!);
  expect([refused.statusCode, refused.headers['retry-after']]).toEqual([503, '30']);
  refused.destroy();
  expect(await reached('device_streams')).toBe(1);
  expect(await logged('device_streams')).toMatchObject({ level: INFO, device: 's3' });
  one.response.destroy();
  let three = await EventSource.ask(server, tokens[2]!);
  while (three.statusCode !== 200) three = await EventSource.ask(server, tokens[2]!);
  three.destroy();
  two.response.destroy();
});

test('pipelined_requests: more that come before the first answer end their connection', async () => {
  const token = await server.createDevice('hasty');
  const { socket } = await open('127.0.0.4');
  const request = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`;
  socket.write(request('/v1/device/commands?wait=60') + request('/healthz').repeat(4));
  await once(socket, 'close');
  expect(await reached('pipelined_requests')).toBe(1);
  expect(await logged('pipelined_requests')).toMatchObject({ level: INFO, address: '127.0.0.4' });
  expect((await server.request('GET', '/healthz')).status).toBe(200);
});

test('body_bytes: a larger body is 413, whether it says how long it is or not, and another is taken', async () => {
  const large = JSON.stringify({ id: 'large', name: 'x'.repeat(70_000) });
  expectProblem(await server.request('POST', '/v1/devices', { body: large }), 'body_too_large');
  const { status } = await fetch(`${server.url}/v1/devices`, {
    method: 'POST',
    headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
    body: new Blob([large]).stream(),
    duplex: 'half',
  });
  expect(status).toBe(413);
  const token = await server.createDevice('wordy');
  const telemetry = await server.request('POST', '/v1/device/telemetry', { credential: token, body: 'x'.repeat(300_000) });
  expectProblem(telemetry, 'body_too_large');
  expect(await reached('body_bytes')).toBe(3);
  expect(await logged('body_bytes')).toMatchObject({ level: INFO, address: '127.0.0.1', client: 'admin' });
});

test('in_flight: a program that does not acknowledge gets so many, the rest as it does; that counts once, not for each', async () => {
  const key = await createKey(server);
  const [reader, writer] = [await connectRaw(server, key, { clientId: 'lazy' }), await connectRaw(server, key)];
  reader.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'work', qos: 1 }] });
  expect(await reader.next()).toMatchObject({ cmd: 'suback' });
  for (let n = 1; n <= 6; n += 1) writer.send(publish('work', String(n), n));
  await writer.take(6);
  const first = await reader.untilPong();
  expect(payloadsOf(first)).toEqual(['1', '2']);
  expect(await reached('in_flight')).toBe(1);
  const who = { client: `${key.id}/lazy` };
  expect(await logged('in_flight', who)).toMatchObject({ level: DEBUG });

  const got = first;
  for (const packet of got) {
    reader.send({ cmd: 'puback', messageId: messageIdOf(packet) });
    if (got.length < 6) got.push(await reader.next());
  }
  expect(payloadsOf(got)).toEqual(['1', '2', '3', '4', '5', '6']);
  expect(await reached('in_flight')).toBe(1);
  expect(await reader.untilPong()).toEqual([]);
  for (let n = 7; n <= 9; n += 1) writer.send(publish('work', String(n), n));
  await writer.take(3);
  expect(payloadsOf(await reader.untilPong())).toEqual(['7', '8']);
  expect(await reached('in_flight')).toBe(2);
  reader.vanish();
  writer.vanish();
});

test.each(['device', 'program'])(
  'received_messages: a %s that releases no more QoS 2 is cut with one too many, over its next connection as well, and goes on as it releases',
  async (kind) => {
    const isDevice = kind === 'device';
    const login = isDevice ? { id: 'hoarder', key: await server.createDevice('hoarder') } : await createKey(server);
    const topic = isDevice ? 'devices/hoarder/telemetry' : 'work';
    const clientId = 'hoarder';
    const connection = () => connectRaw(server, login, { clientId, clean: false });
    const before = await reached('received_messages');
    const publish = (messageId: number, dup = false): Packet => {
      return { cmd: 'publish', topic, payload: `{"n":${messageId}}`, qos: 2, messageId, dup, retain: false };
    };
    const first = await connection();
    first.send(publish(1), publish(2), publish(3));
    expect(await first.take(3)).toMatchObject([1, 2, 3].map((messageId) => ({ cmd: 'pubrec', messageId })));
    // What comes again is not one more.
    first.send(publish(2, true));
    expect(await first.next()).toMatchObject({ cmd: 'pubrec', messageId: 2 });
    expect(await reached('received_messages')).toBe(before);
    first.send(publish(4));
    await first.closed;
    const client = isDevice ? clientId : `${login.id}/${clientId}`;
    const log = logged('received_messages', { client }).then((event) => ({ event }));
    // The log has one a second.
    let cuts = 1;
    const fiftyMs = () => new Promise<undefined>((resolve) => setTimeout(resolve, 50, undefined));
    let line = await Promise.race([log, fiftyMs()]);
    for (; line === undefined; cuts += 1) {
      const next = await connection();
      next.send(publish(4));
      await next.closed;
      line = await Promise.race([log, fiftyMs()]);
    }
    expect(line.event).toMatchObject({ level: INFO });
    expect(await reached('received_messages')).toBe(before + cuts);
    const last = await connection();
    last.send({ cmd: 'pubrel', messageId: 1 });
    expect(await last.next()).toMatchObject({ cmd: 'pubcomp', messageId: 1 });
    last.send(publish(4));
    expect(await last.next()).toMatchObject({ cmd: 'pubrec', messageId: 4 });
    await last.disconnect();
    if (!isDevice) return;
    const { body } = await server.request<{ rejects: object[] }>('GET', '/v1/devices/hoarder/rejects');
    expect(body.rejects).toMatchObject([{ code: 'rate_limited', message: expect.stringContaining('PUBREL') }]);
    // A new session owes nothing.
    const anew = await connectRaw(server, login, { clientId });
    anew.send(publish(5), publish(6), publish(7));
    expect(await anew.take(3)).toMatchObject([5, 6, 7].map((messageId) => ({ cmd: 'pubrec', messageId })));
    anew.vanish();
  },
);

test('backlog_bytes: of what a program does not read, what is too much is not sent to it, and each of that counts', async () => {
  const key = await createKey(server);
  const [reader, writer] = [await connectRaw(server, key, { clientId: 'slow' }), await connectRaw(server, key)];
  reader.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'flood', qos: 0 }] });
  expect(await reader.next()).toMatchObject({ cmd: 'suback' });
  reader.stopReading();
  let sent = 0;
  while ((await reached('backlog_bytes')) === 0) {
    for (let n = 0; n < 20; n += 1) writer.send(publish('flood', 'x'.repeat(100_000)));
    sent += 20;
    await writer.untilPong();
  }
  expect(await logged('backlog_bytes')).toMatchObject({ level: INFO, client: `${key.id}/slow` });
  const dropped = await reached('backlog_bytes');
  reader.read();
  expect(await reader.untilPong()).toHaveLength(sent - dropped);
  writer.send(publish('flood', 'after'));
  expect(payloadsOf([await reader.next()])).toEqual(['after']);
  expect(await reached('backlog_bytes')).toBe(dropped);
  reader.vanish();
  writer.vanish();
});

test('http_idle_seconds: a connection that has had its answer and is silent is closed; one whose poll waits is not', async () => {
  const token = await server.createDevice('patient');
  const before = await reached('http_idle_seconds');
  const ask = (socket: Socket, path: string): void => {
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`);
  };
  const [idle, waiting] = [await open('127.0.0.2'), await open('127.0.0.3')];
  ask(waiting.socket, '/v1/device/commands?wait=60');
  ask(idle.socket, '/v1/device/commands');
  await once(idle.socket, 'close');
  expect(idle.said()).toMatch(/^HTTP\/1\.1 204 [^]*\r\n\r\n$/);
  expect(await logged('http_idle_seconds', { address: '127.0.0.2' })).toMatchObject({ level: DEBUG });
  expect(await reached('http_idle_seconds')).toBeGreaterThan(before);
  await server.issue('patient', { name: 'show' });
  while (!waiting.said().includes('"show"')) await once(waiting.socket, 'data');
  expect(waiting.said()).toMatch(/^HTTP\/1\.1 200 /);
  waiting.socket.destroy();
});

test('operator_keys, fleet_keys: of many asked for at once as many are made as there is room for, and another when one is revoked', async () => {
  for (const [path, bound, max] of [
    ['/v1/keys', 'operator_keys', 6],
    ['/v1/fleet-keys', 'fleet_keys', 2],
  ] as const) {
    const idsOf = async (): Promise<string[]> => {
      const { body } = await server.request<Record<string, { id: string }[]>>('GET', path);
      return Object.values(body).flatMap((keys) => keys.map(({ id }) => id));
    };
    const make = () => server.request('POST', path, { body: { name: 'one of many', ...KEY_OF[path] } });
    const had = (await idsOf()).length;
    const answers = await Promise.all(Array.from({ length: max + 2 }, make));
    const refused = answers.filter(({ status }) => status !== 201);
    expect(refused).toHaveLength(had + 2);
    expect(await idsOf()).toHaveLength(max);
    const one = await make();
    expectProblem(one, 'quota_exhausted');
    expect(await reached(bound)).toBe(had + 3);
    expect(await logged(bound)).toMatchObject({ level: INFO });
    for (const id of await idsOf()) if (id !== 'admin') await server.request('DELETE', `${path}/${id}`);
    expect((await make()).status).toBe(201);
  }
});

test('registrations_per_second: more of a fleet key are 429, and one is taken after a while', async () => {
  const { body } = await server.request<{ key: { id: string }; secret: string }>('POST', '/v1/fleet-keys', {
    body: { name: 'batch', quota: 1_000 },
  });
  let nth = 0;
  const register = () =>
    server.request('POST', '/v1/provision', { credential: body.secret, body: { id: `registered-${(nth += 1)}` } });
  let answer = await register();
  while (answer.status === 201) answer = await register();
  expect(nth).toBeGreaterThan(BURST_SECONDS);
  expectProblem(answer, 'rate_limited');
  expect(answer.headers.get('retry-after')).toBe('1');
  expect(await reached('registrations_per_second')).toBe(1);
  expect(await logged('registrations_per_second')).toMatchObject({ level: INFO, fleetKey: body.key.id });
  while ((await register()).status !== 201);
});

test('audit_entries: commands push out the oldest commands alone', async () => {
  await server.createDevice('commanded');
  let last = '';
  while ((await reached('audit_entries')) === 0) {
    for (let n = 0; n < 20; n += 1) ({ id: last } = await server.issue('commanded', { name: 'show', key: 'the same' }));
  }
  expect(await logged('audit_entries')).toMatchObject({ level: INFO, kind: 'command' });
  const entries = async (action: string) =>
    (await server.request<{ entries: { target: string }[] }>('GET', `/v1/audit?limit=1000&action=${action}`)).body.entries;
  const commands = await entries('command');
  expect(commands.length).toBeLessThan(200);
  expect(commands[0]).toMatchObject({ target: last });
  expect(await entries('device.create')).toContainEqual(expect.objectContaining({ target: 'commanded' }));
});

const KEY_OF = { '/v1/keys': { role: 'viewer' }, '/v1/fleet-keys': { quota: 1 } } as const;

async function open(localAddress: string): Promise<{ socket: Socket; said: () => string }> {
  const { hostname, port } = new URL(server.url);
  const socket = connect({ port: Number(port), host: hostname, localAddress });
  let said = '';
  socket.setEncoding('utf8').on('data', (text: string) => (said += text));
  await once(socket, 'connect');
  return { socket, said: () => said };
}

function publish(topic: string, payload: string, messageId?: number): Packet {
  const qos = messageId === undefined ? 0 : 1;
  return { cmd: 'publish', topic, payload, qos, dup: false, retain: false, ...(messageId !== undefined && { messageId }) };
}

function payloadsOf(packets: readonly Packet[]): string[] {
  return packets.map((packet) => (packet.cmd === 'publish' ? packet.payload.toString() : packet.cmd));
}

function messageIdOf(packet: Packet): number {
  if (packet.messageId === undefined) throw new Error(`${packet.cmd} has no message id`);
  return packet.messageId;
}
