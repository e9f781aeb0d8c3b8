import { once, type EventEmitter } from 'node:events';
import { connect, constants, type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders } from 'node:http2';
import { setImmediate } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { decode } from 'cborg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ERROR, FLAG, FRAME, frameOf, RawHttp2, requestHeaders, uint32 } from './attacks/raw-http2.ts';
import { ADMIN_KEY } from './live-server.ts';
import { TlsServer } from './tls-server.ts';

/** HTTP/2 into the same routes: what differs between the two is not to be noticed. */
let server: TlsServer;
let session: ClientHttp2Session;
let token: string;

beforeEach(async () => {
  server = await TlsServer.start();
  token = await server.live.createDevice('label', { limits: { leaseSeconds: 600 } });
  session = newSession();
});

afterEach(async () => {
  // Not in the turn in which something of it is read: Node.js then uses the memory of streams that it has freed (nodejs/node#38964).
  await setImmediate();
  session.destroy();
  await server.close();
});

function newSession(): ClientHttp2Session {
  const made = connect(`https://localhost:${server.httpsPort}`, { ca: server.authority.pem });
  made.on('error', () => {});
  return made;
}

/** An error before it is told otherwise. */
async function closed(what: EventEmitter): Promise<void> {
  await new Promise<void>((resolve) => what.once('close', () => resolve()));
}

function open(path: string, headers: Record<string, string> = {}, body?: string | Buffer): ClientHttp2Stream {
  const stream = session.request(
    { ':path': path, ':method': body === undefined ? 'GET' : 'POST', authorization: `Bearer ${token}`, ...headers },
    { endStream: body === undefined },
  );
  stream.on('error', () => {});
  if (body !== undefined) stream.end(body);
  return stream;
}

async function reached(bound: string): Promise<number> {
  const metrics = await (await fetch(`${server.live.url}/metrics`, { headers: { connection: 'close' } })).text();
  return Number(new RegExp(`downlink_bound_reached_total\\{bound="${bound}"\\} (\\d+)`).exec(metrics)?.[1]);
}

type Answer = { readonly status: number; readonly headers: IncomingHttpHeaders; readonly body: Buffer };

async function answered(stream: ClientHttp2Stream): Promise<Answer> {
  const [headers] = (await once(stream, 'response')) as [IncomingHttpHeaders];
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return { status: Number(headers[':status']), headers, body: Buffer.concat(chunks) };
}

const ask = async (...request: Parameters<typeof open>): Promise<Answer> => answered(open(...request));
const JSON_TYPE = { 'content-type': 'application/json' };

test('telemetry, reports, syncs in CBOR and problems are answered as over HTTP/1.1', async () => {
  expect(await ask('/v1/device/telemetry', JSON_TYPE, '{"temperature":21.5}')).toMatchObject({ status: 202 });
  const { id } = await server.live.issue('label', { name: 'show', params: { price: 1 } });
  const cbor = { ...JSON_TYPE, accept: 'application/cbor' };
  const synced = await ask('/v1/device/sync', cbor, '{}');
  expect(decode(synced.body)).toMatchObject({ commands: [{ id, params: { price: 1 } }] });
  expect(await ask(`/v1/device/commands/${id}`, JSON_TYPE, '{"state":"succeeded"}')).toMatchObject({ status: 200 });
  expect(await server.live.command(id)).toMatchObject({ state: 'succeeded', attempts: 1 });

  const refused = await ask('/v1/device/telemetry', JSON_TYPE, '{"temperature":[]}');
  expect(refused.headers).toMatchObject({ ':status': 400, 'content-type': expect.stringContaining('application/problem+json') });
  expect(JSON.parse(refused.body.toString())).toMatchObject({ at: 'temperature' });
  expect(await ask('/v1/nothing')).toMatchObject({ status: 404 });
  expect(await ask('/v1/device/telemetry', JSON_TYPE, `{"a":"${'x'.repeat(300_000)}"}`)).toMatchObject({ status: 413 });
  expect(await ask('/v1/device/commands', { authorization: 'Bearer wrong' })).toMatchObject({ status: 401 });
});

test('a poll waits, is answered with the command, and keeps it leased afterwards', async () => {
  const polled = ask('/v1/device/commands?wait=60');
  while ((await server.metric('downlink_parked_polls')) === 0);
  const { id } = await server.live.issue('label', { name: 'show' });
  const { status, body } = await polled;
  expect(status).toBe(200);
  expect(JSON.parse(body.toString())).toMatchObject({ commands: [{ id, attempt: 1 }] });
  // Another poll of the same session comes after the end of the first one's stream.
  expect(await ask('/v1/device/commands')).toMatchObject({ status: 204 });
  expect(await server.live.command(id)).toMatchObject({ state: 'sent', attempts: 1 });
});

test('a poll whose stream is reset while it waits is free again, and takes no command with it', async () => {
  const poll = open('/v1/device/commands?wait=60');
  while ((await server.metric('downlink_parked_polls')) === 0);
  poll.close(constants.NGHTTP2_CANCEL);
  while ((await server.metric('downlink_parked_polls')) === 1);
  const { id } = await server.live.issue('label', { name: 'show' });
  expect(await server.live.command(id)).toMatchObject({ state: 'queued', attempts: 0 });
});

test('events go over one session beside requests, and a withdrawn token ends them alone', async () => {
  const events = open('/v1/device/events');
  const live = open('/v1/stream', { authorization: `Bearer ${ADMIN_KEY}` });
  const [head] = (await once(events, 'response')) as [IncomingHttpHeaders];
  expect(head).toMatchObject({ ':status': 200, 'content-type': 'text/event-stream; charset=utf-8' });
  let told = '';
  events.setEncoding('utf8').on('data', (chunk: string) => (told += chunk));
  live.resume();
  const { id } = await server.live.issue('label', { name: 'show' });
  while (!told.includes(id)) await once(events, 'data');
  expect(await ask('/v1/device/telemetry', JSON_TYPE, '{"a":1}')).toMatchObject({ status: 202 });
  const ended = once(events, 'end');
  await server.live.request('POST', '/v1/devices/label/token');
  await ended;
  expect(session.destroyed).toBe(false);
  expect(live.destroyed).toBe(false);
});

test('a stream of events whose client resets it is over', async () => {
  const live = open('/v1/stream', { authorization: `Bearer ${ADMIN_KEY}` });
  await once(live, 'response');
  expect(await server.metric('downlink_live_streams')).toBe(1);
  live.close(constants.NGHTTP2_CANCEL);
  while ((await server.metric('downlink_live_streams')) === 1);
});

test('a stopping server says goodbye, answers what waits and ends the session', async () => {
  const polled = ask('/v1/device/commands?wait=60');
  const events = open('/v1/device/events');
  events.resume();
  await once(events, 'response');
  while ((await server.metric('downlink_parked_polls')) === 0);
  const goodbye = once(session, 'goaway') as Promise<[number]>;
  const end = closed(session);
  await server.live.stop();
  expect((await goodbye)[0]).toBe(constants.NGHTTP2_NO_ERROR);
  expect(await polled).toMatchObject({ status: 204, headers: { 'retry-after': expect.any(String) } });
  await end;
});

test('a flood of resets ends the session and nothing else', async () => {
  await once(session, 'remoteSettings');
  for (let resets = 0; !session.closed && !session.destroyed && resets < 20_000; resets += 50) {
    const streams = Array.from({ length: 50 }, () => open('/healthz'));
    // What is reset before it has left does not leave at all.
    await setImmediate();
    for (const stream of streams) stream.close(constants.NGHTTP2_CANCEL);
    await setImmediate();
  }
  expect(session.closed || session.destroyed).toBe(true);
  session = newSession();
  expect(await ask('/healthz')).toMatchObject({ status: 200 });
});

test('requests that are reset by the write that brings them are not taken up', async () => {
  const raw = await RawHttp2.open(server.httpsPort, { ca: server.authority.pem });
  const headers = requestHeaders('/v1/device/commands', { authorization: `Bearer ${token}` });
  const polls = Array.from({ length: 20 }, (_, n) => 2 * n + 1).flatMap((stream) => [
    frameOf(FRAME.headers, FLAG.endHeaders | FLAG.endStream, stream, headers),
    frameOf(FRAME.reset, 0, stream, uint32(ERROR.cancel)),
  ]);
  raw.send(Buffer.concat(polls));
  raw.request(101);
  expect(await raw.answered(101)).toBe(true);
  expect(await server.metric('downlink_polls_total{status="204"}')).toBe(0);
  raw.end();
});

test('a session carries a hundred requests at a time, and headers up to the bound', async () => {
  await once(session, 'remoteSettings');
  expect(session.remoteSettings).toMatchObject({ maxConcurrentStreams: 100, maxHeaderListSize: 16_384 });
  const fat = open('/healthz', { 'x-fat': 'x'.repeat(20_000) });
  await closed(fat);
  expect(fat.rstCode).not.toBe(constants.NGHTTP2_NO_ERROR);
  session = newSession();
  expect(await ask('/healthz')).toMatchObject({ status: 200 });
});

test('a body that does not come ends its request', async () => {
  session.destroy();
  await server.close();
  const { BOUNDS, DEFAULT_BOUNDS } = await import('../broker/bounds.ts');
  expect(BOUNDS.request_seconds.lowest).toBe(1);
  server = await TlsServer.start({ config: { bounds: { ...DEFAULT_BOUNDS, request_seconds: 1, header_seconds: 1 } } });
  token = await server.live.createDevice('label');
  session = newSession();
  const slow = session.request({
    ':path': '/v1/device/telemetry',
    ':method': 'POST',
    authorization: `Bearer ${token}`,
    ...JSON_TYPE,
  });
  slow.on('error', () => {});
  slow.write('{"a":');
  await closed(slow);
  expect(slow.rstCode).toBe(constants.NGHTTP2_CANCEL);
  expect(await reached('request_seconds')).toBe(1);
  expect(await ask('/healthz')).toMatchObject({ status: 200 });
});

test('a session that asks nothing, or nothing more, is told to go, and so is a connection of HTTP/1.1; each counts', async () => {
  session.destroy();
  await server.close();
  const { DEFAULT_BOUNDS } = await import('../broker/bounds.ts');
  server = await TlsServer.start({ config: { bounds: { ...DEFAULT_BOUNDS, header_seconds: 1, http_idle_seconds: 1 } } });
  session = newSession();
  await closed(session);
  expect(await reached('header_seconds')).toBe(1);
  session = newSession();
  expect(await ask('/healthz')).toMatchObject({ status: 200 });
  await closed(session);
  expect(await reached('http_idle_seconds')).toBe(1);
  const socket = connectTls({ port: server.httpsPort, host: 'localhost', ca: server.authority.pem, ALPNProtocols: ['http/1.1'] });
  socket.on('error', () => {});
  socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n');
  socket.resume();
  await closed(socket);
  expect(await reached('http_idle_seconds')).toBe(2);
});
