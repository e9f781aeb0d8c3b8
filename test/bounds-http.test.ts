import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS, type BoundName, type Bounds } from '../broker/bounds.ts';
import { BURST_SECONDS } from '../broker/limits/token-bucket.ts';
import { expectProblem } from './api-support.ts';
import { LiveServer } from './live-server.ts';

/** Each bound over HTTP reached by a client, with a well-behaved one beside it. */
let server: LiveServer;

afterEach(() => server.close());

async function start(bounds: Partial<Bounds>, trustedProxies: readonly string[] = []): Promise<void> {
  server = await LiveServer.start({ bounds: { ...DEFAULT_BOUNDS, ...bounds }, trustedProxies });
}

async function reached(bound: BoundName): Promise<number> {
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  return Number(new RegExp(`downlink_bound_reached_total\\{bound="${bound}"\\} (\\d+)`).exec(metrics)?.[1]);
}

const poll = (credential: string, headers: Record<string, string> = {}) =>
  server.request('GET', '/v1/device/commands', { credential, headers });

/** As who comes by 127.0.0.2: the status line and headers, and what the server says before it closes. */
async function rawRequest(text: string, localAddress = '127.0.0.2'): Promise<string> {
  const { hostname, port } = new URL(server.url);
  const socket = connect({ port: Number(port), host: hostname, localAddress });
  socket.on('error', () => {});
  let answer = '';
  socket.on('data', (chunk: Buffer) => (answer += chunk.toString()));
  socket.write(text);
  await once(socket, 'close');
  return answer;
}

const get = (path: string, headers: readonly string[] = []): string =>
  [`GET ${path} HTTP/1.1`, 'Host: x', 'Connection: close', ...headers, '', ''].join('\r\n');

describe('requests a second', () => {
  test('beyond the bound are 429 with the time after which it works; another device is none the worse', async () => {
    await start({ requests_per_second: 1 });
    const [wild, calm] = [await server.createDevice('wild'), await server.createDevice('calm')];
    for (let n = 0; n < BURST_SECONDS; n += 1) expect((await poll(wild)).status).toBe(204);
    let answer = await poll(wild);
    // The clock is a real one: a second may just have passed.
    while (answer.status === 204) answer = await poll(wild);
    expectProblem(answer, 'rate_limited');
    expect(answer.headers.get('retry-after')).toBe('1');
    expect((await poll(calm)).status).toBe(204);
    expect(await reached('requests_per_second')).toBeGreaterThan(0);
    expect((await server.request<{ rejects: { code: string }[] }>('GET', '/v1/devices/wild/rejects')).body.rejects).toMatchObject(
      [{ code: 'rate_limited' }],
    );
    for (;;) if ((await poll(wild)).status === 204) break;
  });

  test('of one operator key beyond the bound are 429; another key, and a device with the key’s id for a name, are not', async () => {
    await start({ requests_per_second: 2 });
    const { body } = await server.request<{ key: { id: string }; secret: string }>('POST', '/v1/keys', {
      body: { name: 'other', role: 'viewer' },
    });
    const token = await server.createDevice(body.key.id);
    const ask = () => server.request('GET', '/v1/devices', { credential: body.secret });
    let answer = await ask();
    while (answer.status === 200) answer = await ask();
    expectProblem(answer, 'rate_limited');
    expect((await server.request('GET', '/v1/devices')).status).toBe(200);
    expect((await poll(token)).status).toBe(204);
  });

  test('without a credential are bounded by address', async () => {
    await start({ open_requests_per_second: 1 });
    const ask = async (path: string): Promise<number> => (await fetch(server.url + path)).status;
    let statuses: number[] = [];
    while (!statuses.includes(429)) statuses = [await ask('/healthz'), await ask('/nothing/here'), await ask('/docs/')];
    expect(await rawRequest(get('/healthz'))).toMatch(/^HTTP\/1\.1 200/);
    expect(await rawRequest(get('/metrics'))).toMatch(/bound_reached_total\{bound="open_requests_per_second"\} [1-9]/);
    const token = await server.createDevice('device');
    expect((await poll(token)).status).toBe(204);
  });
});

test('octets a second beyond the bound are 429, and nothing of them is stored', async () => {
  await start({ bytes_per_second: 1_024 });
  const token = await server.createDevice('device');
  const send = () => server.request('POST', '/v1/device/telemetry', { credential: token, body: { note: 'x'.repeat(1_000) } });
  let stored = 0;
  let answer = await send();
  for (; answer.status === 202; answer = await send()) stored += 1;
  expectProblem(answer, 'rate_limited');
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(stored).toBeGreaterThanOrEqual(BURST_SECONDS - 1);
  expect((await poll(token)).status).toBe(204);
  expect(await reached('bytes_per_second')).toBe(1);
});

describe('wrong credentials', () => {
  const wrong = () => poll(`dld_${'x'.repeat(43)}`);

  test('bring a pause for their address, in which who was let in from there before goes on, and which ends', async () => {
    await start({ wrong_credentials: 5, login_pause: 1 });
    const [known, late] = [await server.createDevice('known'), await server.createDevice('late')];
    expect((await poll(known)).status).toBe(204);
    for (let n = 0; n < 5; n += 1) expectProblem(await wrong(), 'unauthorized');

    const paused = await wrong();
    expectProblem(paused, 'rate_limited');
    expect(paused.headers.get('retry-after')).toBe('1');
    expect((await poll(known)).status).toBe(204);
    expect((await server.request('GET', '/v1/devices')).status).toBe(200);
    expect(await rawRequest(get('/v1/device/commands', [`Authorization: Bearer ${late}`]))).toMatch(/^HTTP\/1\.1 204/);
    expect(await reached('wrong_credentials')).toBeGreaterThan(0);
    for (;;) if ((await poll(late)).status === 204) break;
  });

  test('of those behind a trusted proxy count by the address that it gives; nobody else can name one', async () => {
    await start({ wrong_credentials: 3, login_pause: 60 }, ['127.0.0.1']);
    const token = await server.createDevice('device');
    const from = (address: string) => ({ 'x-forwarded-for': address });
    const status = async (credential: string, address: string): Promise<number> => (await poll(credential, from(address))).status;
    const statuses: number[] = [];
    for (let n = 0; n < 4; n += 1) statuses.push(await status('wrong', '9.9.9.9'));
    expect(statuses).toEqual([401, 401, 401, 429]);
    expect(await status(token, '8.8.8.8')).toBe(204);
    expect(await status('wrong', '7.7.7.7')).toBe(401);

    const answers: string[] = [];
    for (let n = 0; n < 4; n += 1) {
      answers.push(await rawRequest(get('/v1/device/commands', ['Authorization: Bearer wrong', `X-Forwarded-For: 5.5.5.${n}`])));
    }
    expect(answers.map((answer) => answer.slice(9, 12))).toEqual(['401', '401', '401', '429']);
  });
});

describe('requests that do not come whole', () => {
  const headers = (length: number): string =>
    ['POST /v1/device/telemetry HTTP/1.1', 'Host: x', 'Authorization: Bearer {token}', `Content-Length: ${length}`, '', ''].join(
      '\r\n',
    );

  test('are ended when the headers take too long, and when the body does', async () => {
    await start({ header_seconds: 1, request_seconds: 2 });
    const token = await server.createDevice('device');
    const [silent, slowHeaders, slowBody] = await Promise.all([
      rawRequest(''),
      rawRequest('GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: '),
      rawRequest(`${headers(100).replace('{token}', token)}{"a"`),
    ]);
    expect(silent).toMatch(/^HTTP\/1\.1 400[^]*took too long/);
    expect(slowHeaders).toMatch(/^HTTP\/1\.1 400[^]*took too long/);
    expect(slowBody).toMatch(/^HTTP\/1\.1 400[^]*took too long/);
    expect(await reached('header_seconds')).toBe(2);
    expect(await reached('request_seconds')).toBe(1);
    expect((await poll(token)).status).toBe(204);
  });

  test('are refused when their headers are larger than may be', async () => {
    await start({ header_bytes: 1_024 });
    expect(await rawRequest(get('/healthz', [`X-Large: ${'x'.repeat(2_000)}`]))).toMatch(/^HTTP\/1\.1 400[^]*larger/);
    expect(await reached('header_bytes')).toBe(1);
  });
});

describe('what waits', () => {
  test('long polls beyond the bounds are answered at once, and counted', async () => {
    await start({ parked_polls: 2, parked_polls_per_device: 1 });
    const [one, two, three] = [await server.createDevice('1'), await server.createDevice('2'), await server.createDevice('3')];
    const wait = (credential: string) => server.request('GET', '/v1/device/commands?wait=60', { credential });
    const parked = async (count: number): Promise<void> => {
      while (!(await (await fetch(`${server.url}/metrics`)).text()).includes(`downlink_parked_polls ${count}\n`));
    };
    const waiting = [wait(one)];
    await parked(1);
    expect((await wait(one)).status).toBe(204);
    expect(await reached('parked_polls_per_device')).toBe(1);
    waiting.push(wait(two));
    await parked(2);
    expect((await wait(three)).status).toBe(204);
    expect(await reached('parked_polls')).toBe(1);
    await server.issue('1', { name: 'show' });
    await server.issue('2', { name: 'show' });
    expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual([200, 200]);
  });

  test('live streams beyond those of one key are refused; another key has its own', async () => {
    await start({ live_streams_per_key: 1, live_streams: 2 });
    const { body } = await server.request<{ secret: string }>('POST', '/v1/keys', { body: { name: 'other', role: 'viewer' } });
    const stop = new AbortController();
    const open = async (key?: string): Promise<number> => {
      const { hostname, port } = new URL(server.url);
      const response = await fetch(`http://${hostname}:${port}/v1/stream`, {
        headers: { authorization: `Bearer ${key ?? 'test-admin-key-0123456789'}` },
        signal: stop.signal,
      });
      return response.status;
    };
    expect([await open(), await open(), await open(body.secret)]).toEqual([200, 503, 200]);
    expect(await reached('live_streams_per_key')).toBe(1);
    expect(await open(body.secret)).toBe(503);
    expect(await reached('live_streams')).toBe(1);
    stop.abort();
  });
});
