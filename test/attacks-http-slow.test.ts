import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { keyFor } from './api-support.ts';
import { lines, portOf, rawHttp } from './attacks/raw-http.ts';
import { AttackedServer } from './healthy-device.ts';

/** Clients that are slow, that never read, or that come in crowds. */
let server: AttackedServer;
let port: number;
let key: string;
let nth = 0;

beforeAll(async () => {
  server = await AttackedServer.start({
    DOWNLINK_HEADER_SECONDS_MAX: '2',
    DOWNLINK_REQUEST_SECONDS_MAX: '3',
    DOWNLINK_REQUESTS_PER_SECOND_MAX: '500',
  });
  port = portOf(server.live.url);
  key = (await keyFor(server.live, 'admin')).secret;
});

afterAll(() => server.close());

async function device(): Promise<{ id: string; token: string }> {
  const id = `slow-${(nth += 1)}`;
  return { id, token: await server.live.createDevice(id) };
}

function bearer(credential: string): string {
  return `Authorization: Bearer ${credential}`;
}

async function open(octets: string): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1' });
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('connect', resolve));
  socket.write(octets);
  return socket;
}

/** Says an octet every quarter of a second until it is closed. Answers what was said to it. */
async function drip(octets: string, more: string): Promise<string> {
  const socket = await open(octets);
  let said = '';
  socket.on('data', (chunk: Buffer) => void (said += chunk.toString()));
  const timer = setInterval(() => void (socket.writable && socket.write(more)), 250);
  await new Promise((resolve) => socket.once('close', resolve));
  clearInterval(timer);
  return said;
}

describe('a request that drips in is ended when its time is up', () => {
  test('200 that never end their headers', async () => {
    await server.withstands('slow headers', async () => {
      const said = await Promise.all(Array.from({ length: 200 }, () => drip('GET /healthz HTTP/1.1\r\nHost: x\r\nX: ', 'x')));
      for (const text of said) expect(text).toMatch(/^HTTP\/1.1 (400|408) /);
    });
  });

  test('200 that never end their bodies, of devices and of nobody', async () => {
    const { token } = await device();
    await server.withstands('slow bodies', async () => {
      const said = await Promise.all(
        Array.from({ length: 200 }, (_, i) => {
          const credential = i % 2 === 0 ? token : 'nobody';
          const head = lines('POST /v1/device/telemetry HTTP/1.1', 'Host: x', bearer(credential), 'Content-Length: 1000', '');
          return drip(head, ' ');
        }),
      );
      for (const text of said) expect(text).toMatch(/^HTTP\/1.1 4\d\d /);
    });
  });
});

describe('what is never read is not kept for ever', () => {
  test("operators' event streams that nobody reads", { timeout: 90_000 }, async () => {
    const { id, token } = await device();
    await server.withstands('live streams never read', async () => {
      const request = lines('GET /v1/stream HTTP/1.1', 'Host: x', bearer(key), '');
      const sockets = await Promise.all(Array.from({ length: 100 }, () => open(request)));
      for (const socket of sockets) socket.pause();
      const text = 'x'.repeat(1_000);
      const message = Array.from({ length: 60 }, (_, ts) => ({ ts: Date.now() - ts, values: { text } }));
      for (let n = 0; n < 60; n += 1) {
        const body = JSON.stringify(message);
        const { status } = await server.live.request('POST', '/v1/device/telemetry', { credential: token, body });
        expect([202, 429]).toContain(status);
      }
      for (const socket of sockets) socket.destroy();
    });
    expect((await server.live.request('GET', `/v1/devices/${id}`)).status).toBe(200);
  });

  test("devices' event streams that nobody reads", { timeout: 90_000 }, async () => {
    const { id, token } = await device();
    await server.withstands("devices' event streams never read", async () => {
      const request = lines('GET /v1/device/events HTTP/1.1', 'Host: x', bearer(token), '');
      const sockets: Socket[] = [];
      for (let n = 0; n < 50; n += 1) sockets.push(await open(request));
      for (const socket of sockets) socket.pause();
      const params = 'x'.repeat(30_000);
      for (let n = 0; n < 100; n += 1) {
        const body = { name: 'big', params };
        expect((await server.live.request('POST', `/v1/devices/${id}/commands`, { credential: key, body })).status).toBe(201);
      }
      for (const socket of sockets) socket.destroy();
      // What was issued is the operator's, and counts in memory as long as it is open.
      await server.live.request('DELETE', `/v1/devices/${id}`);
    });
  });

  test('answers of a pipelining flood that nobody reads', { timeout: 90_000 }, async () => {
    await server.withstands('pipelining flood', async () => {
      const socket = await open('');
      socket.pause();
      const requests = lines('GET /openapi.json HTTP/1.1', 'Host: x', '').repeat(200);
      for (let n = 0; n < 50 && socket.writable; n += 1) {
        if (socket.write(requests)) continue;
        await Promise.race([
          new Promise((resolve) => socket.once('drain', resolve)),
          new Promise((resolve) => setTimeout(resolve, 300)),
        ]);
      }
      socket.destroy();
    });
  });
});

test(
  '3,000 parked polls of one device: all but a few are answered at once, and they end with the connection',
  { timeout: 90_000 },
  async () => {
    const { token } = await device();
    await server.withstands('3,000 parked polls', async () => {
      const request = lines('GET /v1/device/commands?wait=60 HTTP/1.1', 'Host: x', bearer(token), '');
      const sockets: Socket[] = [];
      let answered = 0;
      for (let n = 0; n < 3_000; n += 1) {
        const socket = await open(request);
        socket.once('data', () => (answered += 1));
        sockets.push(socket);
      }
      while (answered < 2_900) await new Promise((resolve) => setTimeout(resolve, 20));
      for (const socket of sockets) socket.destroy();
    });
  },
);

test('10,000 requests at once over one connection end it; 50 are answered in their order', { timeout: 90_000 }, async () => {
  const { token } = await device();
  const request = lines('GET /v1/device/commands HTTP/1.1', 'Host: x', bearer(token), '');
  await server.withstands('10,000 requests over one connection', async () => {
    for (let n = 0; n < 5; n += 1) {
      const answers = await rawHttp(port, request.repeat(10_000), 10_000);
      expect(answers.length).toBeLessThan(1_000);
    }
  });
  const answers = await rawHttp(port, request + lines('GET /healthz HTTP/1.1', 'Host: x', '').repeat(49), 50);
  expect(answers.map(({ status }) => status)).toEqual([204, ...Array.from({ length: 49 }, () => 200)]);
});

test('a storm of wrong keys is refused, then told to wait; who was let in before still is', { timeout: 90_000 }, async () => {
  const { token } = await device();
  expect((await server.live.request('GET', '/v1/device/commands', { credential: token })).status).toBe(204);
  await server.withstands('storm of wrong keys', async () => {
    const statuses = new Set<number>();
    for (let n = 0; n < 2_000; n += 1) {
      const credential = n % 2 === 0 ? `dld_${'x'.repeat(40)}${n}` : `dlk_${'y'.repeat(40)}${n}`;
      statuses.add((await server.live.request('GET', '/v1/devices', { credential })).status);
    }
    expect(statuses).toEqual(new Set([401, 429]));
  });
  expect((await server.live.request('GET', '/v1/device/commands', { credential: token })).status).toBe(204);
});
