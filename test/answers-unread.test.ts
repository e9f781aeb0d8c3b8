import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { UnreadAnswers } from '../dashboard-api/unread-answers.ts';
import { AttackedTls } from './attacks/attacked-tls.ts';
import { portOf } from './attacks/raw-http.ts';
import { ERROR, FRAME, frameOf, RawHttp2, SETTING, settings, uint32 } from './attacks/raw-http2.ts';
import { logLines, type AttackedServer } from './healthy-device.ts';
import { ADMIN_KEY } from './live-server.ts';
import { Authority } from './tls-authority.ts';

/** Answers that nobody reads, at a server that puts up with that for a second; and clients that read slowly, or wait themselves, and are left alone. */
const SESSIONS = 20;
const STREAMS = 100;
const MIB = 1024 ** 2;
const WINDOW_MAX = 2 ** 31 - 1;
const LARGE = '/openapi.json';
let attacked: AttackedTls;
let server: AttackedServer;
let largeBytes: number;

beforeAll(async () => {
  attacked = await AttackedTls.start({
    DOWNLINK_ANSWER_SECONDS_MAX: '1',
    DOWNLINK_OPEN_REQUESTS_PER_SECOND_MAX: '1000000',
    DOWNLINK_PIPELINED_REQUESTS_MAX: '100000',
  });
  ({ server } = attacked);
  largeBytes = (await (await fetch(server.live.url + LARGE)).arrayBuffer()).byteLength;
});

afterAll(() => attacked.close());

async function reached(): Promise<number> {
  const metrics = await (await fetch(`${server.live.url}/metrics`)).text();
  return Number(/downlink_bound_reached_total\{bound="answer_seconds"\} (\d+)/.exec(metrics)?.[1]);
}

/** Until the log says so of this address. */
async function logged(address: string): Promise<Record<string, unknown>> {
  for (;;) {
    const line = logLines(server.process.printed).find(
      (line) => line.includes('"bound":"answer_seconds"') && line.includes(`"address":"${address}"`) && line.endsWith('}'),
    );
    if (line !== undefined) return JSON.parse(line) as Record<string, unknown>;
    await setTimeout(20);
  }
}

async function openHttp1(way: 'plain' | 'TLS', localAddress: string): Promise<Socket> {
  const socket =
    way === 'plain'
      ? connect({ port: portOf(server.live.url), host: '127.0.0.1', localAddress })
      : connectTls({
          port: server.live.httpsPort,
          host: '127.0.0.1',
          servername: 'localhost',
          ca: attacked.ca,
          ALPNProtocols: ['http/1.1'],
          ...{ localAddress },
        });
  socket.on('error', () => {});
  await once(socket, way === 'plain' ? 'connect' : 'secureConnect');
  return socket;
}

const get = (path: string, credential?: string): string =>
  `GET ${path} HTTP/1.1\r\nHost: x\r\n${credential === undefined ? '' : `Authorization: Bearer ${credential}\r\n`}\r\n`;
/** More than the system keeps for a connection. (They have to fit in one record of TLS: Node.js 20 fails at more that come at once.) */
const LARGES = (): number => Math.ceil((40 * MIB) / largeBytes);

async function openHttp2(windowBytes: number): Promise<RawHttp2> {
  const client = await RawHttp2.open(
    server.live.httpsPort,
    { ca: attacked.ca },
    settings([SETTING.initialWindowSize, windowBytes]),
  );
  client.send(frameOf(FRAME.windowUpdate, 0, 0, uint32(WINDOW_MAX - 65_535)));
  return client;
}

/** Once an answer that is not read, begun now, has been given up: what was not given up until then is not going to be. */
async function patienceOver(client: RawHttp2, stream: number): Promise<void> {
  client.request(stream, LARGE);
  expect(await client.answered(stream)).toBe(false);
  expect(client.resets.get(stream)).toBe(ERROR.cancel);
}

describe('what is not read ends', () => {
  test.each([
    ['plain', '127.0.0.5'],
    ['TLS', '127.0.0.6'],
  ] as const)('the connection of HTTP/1.1, %s; it counts and is told in the log', async (way, address) => {
    const before = await reached();
    const socket = await openHttp1(way, address);
    socket.pause();
    socket.write(get(LARGE).repeat(LARGES()));
    expect(await logged(address)).toMatchObject({ level: 30 });
    expect(await reached()).toBe(before + 1);
    const ended = once(socket, 'close');
    socket.resume();
    await ended;
  });

  test('the stream of HTTP/2, and its session goes on', async () => {
    const before = await reached();
    const client = await openHttp2(0);
    await patienceOver(client, 1);
    expect(await reached()).toBe(before + 1);
    client.request(3, '/healthz');
    client.send(frameOf(FRAME.windowUpdate, 0, 3, uint32(1_000)));
    expect(await client.answered(3)).toBe(true);
    client.end();
  });

  test('the stream of HTTP/2 that is read by an octet now and then', async () => {
    const client = await openHttp2(0);
    const timer = setInterval(() => client.send(frameOf(FRAME.windowUpdate, 0, 1, uint32(1))), 100);
    await patienceOver(client, 1);
    clearInterval(timer);
    client.end();
  });

  test('the session of HTTP/2 out of which nothing goes at all, pings or not', async () => {
    const before = await reached();
    const client = await openHttp2(WINDOW_MAX);
    client.socket.pause();
    for (let n = 0; n < STREAMS; n += 1) client.request(2 * n + 1, LARGE);
    const timer = setInterval(() => client.send(frameOf(FRAME.ping, 0, 0, Buffer.alloc(8))), 100);
    while ((await reached()) === before) await setTimeout(20);
    client.socket.resume();
    await client.closed;
    clearInterval(timer);
    expect(client.goaway).toBe(undefined);
    expect(await reached()).toBe(before + 1);
  });

  test('a stream of events that was ended, and whose end is not read', async () => {
    const own = await server.live.createDevice('withdrawn');
    const client = await openHttp2(0);
    client.request(1, '/v1/device/events', { authorization: `Bearer ${own}` });
    await patienceOver(client, 3);
    expect(client.resets.has(1)).toBe(false);
    await server.live.request('DELETE', '/v1/devices/withdrawn');
    expect(await client.answered(1)).toBe(false);
    expect(client.resets.get(1)).toBe(ERROR.cancel);
    client.end();
  });
});

test(
  'the memory of answers that nobody asked a credential for comes back while their sessions stay',
  { timeout: 90_000 },
  async () => {
    const before = await reached();
    const sessions: RawHttp2[] = [];
    await server.withstands(
      'answers never read',
      async () => {
        for (let n = 0; n < SESSIONS; n += 1) sessions.push(await openHttp2(0));
        for (const client of sessions) for (let n = 0; n < STREAMS; n += 1) client.request(2 * n + 1, LARGE);
        while ((await reached()) < before + SESSIONS * STREAMS) await setTimeout(50);
      },
      6,
    );
    for (const client of sessions) {
      expect(client.isClosed).toBe(false);
      client.end();
    }
  },
);

describe('what is left alone', () => {
  test.each(['plain', 'TLS'] as const)('answers of HTTP/1.1, %s, that are read slowly and steadily', async (way) => {
    const before = await reached();
    const socket = await openHttp1(way, '127.0.0.7');
    const read = readInPauses(socket);
    socket.write(get(LARGE).repeat(LARGES()) + get('/healthz').replace('Host: x', 'Host: x\r\nConnection: close'));
    const { bytes, pauses } = await read;
    expect(bytes).toBeGreaterThan(LARGES() * largeBytes);
    expect(pauses).toBeGreaterThan(15);
    expect(await reached()).toBe(before);
  });

  test.each(['plain', 'TLS'] as const)(
    'one answer that is larger than what the system keeps, %s, and read slowly and steadily',
    async (way) => {
      const cut: string[] = [];
      const unread = new UnreadAnswers({ bounds: { ...DEFAULT_BOUNDS, answer_seconds: 1 }, reached: (bound) => cut.push(bound) });
      const whole = Buffer.alloc(48 * MIB, 'x');
      const http = createServer((_, response) => response.end(whole));
      unread.followServer(http);
      const { cert, key } = await (await Authority.make()).server();
      const listening = way === 'plain' ? http : createTlsServer({ cert, key }, (socket) => http.emit('connection', socket));
      listening.listen(0, '127.0.0.1');
      await once(listening, 'listening');
      const { port } = listening.address() as AddressInfo;
      const socket =
        way === 'plain' ? connect(port, '127.0.0.1') : connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false });
      const read = readInPauses(socket);
      socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
      expect((await read).bytes).toBeGreaterThan(whole.length);
      expect(cut).toEqual([]);
      unread.close();
      listening.close();
    },
  );

  test('an answer over HTTP/2 that is given a slice of room now and then', async () => {
    const client = await openHttp2(0);
    client.request(1, '/docs/static/swagger-ui-bundle.js');
    const timer = setInterval(() => client.send(frameOf(FRAME.windowUpdate, 0, 1, uint32(65_536))), 100);
    expect(await client.answered(1)).toBe(true);
    clearInterval(timer);
    client.end();
  });

  test('a large answer and a backup over HTTP/2 that are read slowly and steadily', async () => {
    const name = '😀'.repeat(50);
    for (let n = 0; n < 200; n += 1) await server.live.createDevice(`named-${n}`, { name });
    const before = await reached();
    const session = connectHttp2(`https://localhost:${server.live.httpsPort}`, {
      ca: attacked.ca,
    });
    const asAdmin = { authorization: `Bearer ${ADMIN_KEY}` };
    const [large, backup, devicesAnswer] = await Promise.all([
      readSlowly(session, LARGE, {}, 100),
      readSlowly(session, '/v1/backup', asAdmin, 60),
      readSlowly(session, '/v1/devices?limit=500', asAdmin, 150),
    ]);
    expect(JSON.parse(large.text)).toMatchObject({ openapi: expect.any(String) });
    expect(large.bytes).toBe(largeBytes);
    expect(backup.text.trimEnd().split('\n').at(-1)).toContain('sha256');
    const { devices } = JSON.parse(devicesAnswer.text) as { devices: { name?: string }[] };
    expect(devices.filter((device) => device.name === name)).toHaveLength(200);
    expect(await reached()).toBe(before);
    session.close();
    await once(session, 'close');
  });

  test('polls that wait, and streams of events whether they are read or not', async () => {
    const own = await server.live.createDevice('waiting');
    const credential = { authorization: `Bearer ${own}` };
    const client = await openHttp2(0);
    client.request(1, '/v1/device/events', credential);
    client.request(3, '/v1/device/commands?wait=60', credential);
    const events = await openHttp1('plain', '127.0.0.8');
    const poll = await openHttp1('plain', '127.0.0.8');
    events.write(get('/v1/device/events', own));
    await once(events, 'data');
    poll.write(get('/v1/device/commands?wait=60', own));
    await patienceOver(client, 5);
    await patienceOver(client, 7);
    expect([client.resets.has(1), client.resets.has(3), client.ended.has(3)]).toEqual([false, false, false]);
    expect([events.closed, poll.closed]).toEqual([false, false]);
    const answer = once(poll, 'data');
    await server.live.request('DELETE', '/v1/devices/waiting');
    expect(String(await answer)).toMatch(/^HTTP\/1\.1 401 /);
    for (const socket of [client.socket, events, poll]) socket.destroy();
  });
});

/** With a pause after each part that comes. */
async function readSlowly(
  session: ClientHttp2Session,
  path: string,
  headers: Record<string, string>,
  pauseMs: number,
): Promise<{ bytes: number; text: string }> {
  const stream: ClientHttp2Stream = session.request({ ':path': path, ...headers });
  const chunks: Buffer[] = [];
  for await (const chunk of stream) {
    chunks.push(chunk as Buffer);
    await setTimeout(pauseMs);
  }
  const whole = Buffer.concat(chunks);
  return { bytes: whole.length, text: whole.toString() };
}

/** All that comes, until the end, with a fifth of a second between two MiB and the next. */
async function readInPauses(socket: Socket): Promise<{ bytes: number; pauses: number }> {
  let bytes = 0;
  let pauses = 0;
  let readBytes = 0;
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    readBytes += chunk.length;
    if (readBytes < 2 * MIB) return;
    readBytes = 0;
    pauses += 1;
    socket.pause();
    void setTimeout(200).then(() => socket.resume());
  });
  await once(socket, 'close');
  return { bytes, pauses };
}
