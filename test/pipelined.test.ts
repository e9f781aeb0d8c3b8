import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { ADMIN_KEY, LiveServer } from './live-server.ts';

/** Requests of one connection that come before the answers to those before them: as many as may wait, and more. */
const MAX = 4;
const PARK = '/v1/device/commands?wait=60';
let server: LiveServer;
let token: string;

beforeAll(async () => {
  server = await LiveServer.start({ bounds: { ...DEFAULT_BOUNDS, pipelined_requests: MAX } });
  token = await server.createDevice('device');
});

afterAll(() => server.close());

async function open(): Promise<{ socket: Socket; said: () => string }> {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.on('error', () => {});
  let said = '';
  socket.on('data', (chunk: Buffer) => (said += chunk.toString()));
  await once(socket, 'connect');
  return { socket, said: () => said };
}

function request(path: string, credential = token, method = 'GET', body = ''): string {
  const headers = [
    `Host: x`,
    `Authorization: Bearer ${credential}`,
    `Content-Type: application/json`,
    `Content-Length: ${body.length}`,
  ];
  return [`${method} ${path} HTTP/1.1`, ...headers, '', body].join('\r\n');
}

async function reached(): Promise<number> {
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  return Number(/downlink_bound_reached_total\{bound="pipelined_requests"\} (\d+)/.exec(metrics)?.[1]);
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 10));
}

test('as many as may wait are answered, in their order, however often', async () => {
  const { socket, said } = await open();
  const sent: number[] = [];
  for (let round = 0; round < 10; round += 1) {
    const { id } = await server.issue('device', { name: 'show' });
    // The first has its turn, and the others wait for it.
    const names = Array.from({ length: MAX }, (_, n) => round * MAX + n);
    socket.write(request(PARK) + names.map((n) => request(`/v1/${n}`)).join(''));
    sent.push(...names);
    await until(() => said().includes(`GET /v1/${names.at(-1)}`) || said().includes(`"/v1/${names.at(-1)}"`));
    expect(said()).toContain(id);
    await server.request('DELETE', `/v1/commands/${id}`);
  }
  const answered = [...said().matchAll(/\/v1\/(\d+)\b/g)].map(([, n]) => Number(n));
  expect([...new Set(answered)]).toEqual(sent);
  expect(await reached()).toBe(0);
  socket.destroy();
});

test('of a flood behind one that waits nothing is done, and it is not read to its end; another connection goes on', async () => {
  const before = await reached();
  let parsed = 0;
  const count = (): void => {
    parsed += 1;
  };
  const { socket, said } = await open();
  subscribe('http.server.request.start', count);
  const closed = once(socket, 'close');
  const late = (n: number): string => request('/v1/devices', ADMIN_KEY, 'POST', JSON.stringify({ id: `late-${n}` }));
  socket.write(request(PARK) + Array.from({ length: 200 }, (_, n) => late(n)).join(''));
  await closed;
  unsubscribe('http.server.request.start', count);
  // The one that waits, those that may, and the one too many.
  expect(parsed).toBe(1 + MAX + 1);
  expect(said()).toBe('');
  expect(await reached()).toBe(before + 1);
  expect((await server.request('GET', `/v1/devices/late-${MAX}`)).status).toBe(404);
  expect((await server.request('GET', '/v1/devices/late-199')).status).toBe(404);
});
