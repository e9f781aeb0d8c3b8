import { connect } from 'node:net';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem } from './api-support.ts';
import { ADMIN_KEY, LiveServer } from './live-server.ts';

let server: LiveServer;

beforeAll(async () => {
  server = await LiveServer.start();
});

afterAll(() => server.close());

/** What the server says to these octets, until it closes the connection. */
async function said(octets: string): Promise<string> {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.on('error', () => {});
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  socket.write(octets);
  await once(socket, 'close');
  return text;
}

describe('without a key', () => {
  test('/healthz says that the process is up, also to HEAD', async () => {
    expect(await (await fetch(`${server.url}/healthz`)).json()).toEqual({ status: 'ok', version: expect.any(String) });
    expect((await fetch(`${server.url}/healthz`, { method: 'HEAD' })).status).toBe(200);
  });

  test('/readyz says that the server can do its job', async () => {
    const response = await fetch(`${server.url}/readyz`);
    expect({ status: response.status, body: await response.json() }).toEqual({ status: 200, body: { ready: true, reasons: [] } });
  });

  test('/metrics shows counts for Prometheus, and no device’s name', async () => {
    const token = await server.createDevice('very-private-name');
    await server.request('POST', '/v1/device/telemetry', { credential: token, body: { a: 1, b: 2 } });
    const response = await fetch(`${server.url}/metrics`);
    const text = await response.text();
    expect(response.headers.get('content-type')).toMatch(/^text\/plain/);
    for (const line of [
      'downlink_devices 1',
      'downlink_readings_total{transport="http"} 2',
      'downlink_messages_total{transport="http",kind="telemetry"} 1',
      'downlink_live_streams 0',
    ]) {
      expect(text).toContain(`${line}\n`);
    }
    expect(text).not.toContain('very-private-name');
  });

  test('/ leads to the pages, and the pages need nothing from elsewhere', async () => {
    const root = await fetch(`${server.url}/`, { redirect: 'manual' });
    expect([root.status, root.headers.get('location')]).toEqual([302, '/docs']);
    const page = await fetch(`${server.url}/docs`);
    const html = await page.text();
    const parts = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => new URL(link ?? '', `${server.url}/docs/`));
    expect(parts.length).toBeGreaterThan(3);
    for (const part of parts) {
      expect(part.origin).toBe(server.url);
      expect((await fetch(part)).status, part.pathname).toBe(200);
    }
    expect(page.headers.get('content-security-policy')).not.toMatch(/https?:|upgrade-insecure/);
    expect((await fetch(`${server.url}/docs/json`)).status).toBe(200);
  });
});

describe('requests that are none', () => {
  test('what is not HTTP gets a problem document and is closed', async () => {
    const text = await said('hello there\r\n\r\n');
    expect(text).toMatch(/^HTTP\/1\.1 400 .*application\/problem\+json.*"code":"invalid_request"/s);
  });

  test('headers over 16 KiB likewise', async () => {
    const text = await said(`GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ${'x'.repeat(17 * 1024)}\r\n\r\n`);
    expect(text).toMatch(/^HTTP\/1\.1 400 .*headers.*"code":"invalid_request"/s);
  });

  test('a body that is shorter than it says is never taken', async () => {
    const token = await server.createDevice('short');
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    socket.write(
      `POST /v1/device/telemetry HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"a":1}`,
    );
    socket.end();
    socket.resume();
    await once(socket, 'close');
    expect((await server.request('GET', '/v1/devices/short/telemetry/latest')).body).toEqual({ device: 'short', metrics: {} });
  });

  test('a path that is malformed or too long is refused', async () => {
    expectProblem(await server.request('GET', '/v1/devices/%'), 'invalid_request', 'path');
    expectProblem(await server.request('GET', '/v1/devices/%ff'), 'invalid_request', 'path');
    expectProblem(await server.request('GET', `/v1/devices/${'x'.repeat(300)}`), 'invalid_request', 'path');
  });

  test('a server that met them goes on', async () => {
    expect((await server.request('GET', '/v1/devices')).status).toBe(200);
  });
});

describe('while it stops', () => {
  test('what is under way is finished, what is new is refused with 503, and whoever waits is told what is known', async () => {
    const own = await LiveServer.start();
    const token = await own.createDevice('late');
    const waiting = own.request('POST', '/v1/devices/late/commands?wait=60', { body: { name: 'x' } });
    const socket = connect(Number(new URL(own.url).port), '127.0.0.1').setEncoding('utf8');
    let text = '';
    socket.on('data', (chunk: string) => (text += chunk));
    socket.write(
      `POST /v1/device/telemetry HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{"a"`,
    );
    await eventuallyOpen(own);
    const closed = own.close();
    const { status, body } = await waiting;
    expect({ status, state: body['state'] }).toEqual({ status: 202, state: 'queued' });
    socket.write(`:1}GET /v1/devices HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ADMIN_KEY}\r\n\r\n`);
    await once(socket, 'close');
    expect(text).toMatch(/^HTTP\/1\.1 202 .*\{"accepted":1\}HTTP\/1\.1 503 .*"code":"shutting_down"/s);
    expect(text).toMatch(/retry-after: \d+/i);
    await closed;
  });

  async function eventuallyOpen(own: LiveServer): Promise<void> {
    for (;;) {
      const { body } = await own.request('GET', '/v1/devices/late');
      if (body['openCommands'] === 1) return;
    }
  }
});
