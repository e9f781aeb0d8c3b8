import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { EventSource } from './event-source.ts';
import { LiveServer, TestClock } from './live-server.ts';
import { commandsIn, PullingDevice } from './pulling-device.ts';

/** Commands as server-sent events, against a live server whose clock stands still until it is moved. */
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
beforeEach(async () => {
  own = await PullingDevice.register(server, `meter-${(nth += 1)}`);
  ({ id, token } = own);
});

const stateOf = async (commandId: string): Promise<string> => (await server.command(commandId)).state;

async function presenceOf(): Promise<string> {
  const { body } = await server.request<{ presence: { state: string } }>('GET', `/v1/devices/${id}`);
  return body.presence.state;
}

describe('a device that follows its events', () => {
  test('gets a command as it is issued, leased over sse; its report ends it', async () => {
    const stream = await EventSource.open(server, token);
    const commandId = await own.issue('set_target', { params: { celsius: 21 } });
    const event = await stream.next();
    expect(event).toMatchObject({ name: 'command', body: { id: commandId, params: { celsius: 21 }, attempt: 1 } });
    expect(await server.command(commandId)).toMatchObject({ state: 'sent', transport: 'sse' });
    await own.report(commandId);
    expect(await server.command(commandId)).toMatchObject({ state: 'succeeded' });
    stream.close();
  });

  test('is told by the head that nothing on the way may keep or change the stream', async () => {
    const stream = await EventSource.open(server, token);
    expect(stream.response.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store, no-transform',
      'x-accel-buffering': 'no',
    });
    stream.close();
  });

  test('gets what is open when it comes, by priority and then in the order of issue', async () => {
    await own.issue('a');
    await own.issue('b', { priority: 'urgent' });
    await own.issue('c');
    const stream = await EventSource.open(server, token);
    const names = [await stream.next(), await stream.next(), await stream.next()].map(({ body }) => body['name']);
    expect(names).toEqual(['b', 'a', 'c']);
    stream.close();
  });

  test('is online while the stream is open', async () => {
    expect(await presenceOf()).toBe('never');
    const stream = await EventSource.open(server, token);
    expect(await presenceOf()).toBe('online');
    stream.close();
    while ((await presenceOf()) === 'online') await new Promise(setImmediate);
  });

  test('has at most eight unconfirmed commands; each confirmation lets one more through', async () => {
    for (let i = 0; i < 10; i += 1) await own.issue(`n${i}`);
    const stream = await EventSource.open(server, token);
    const got: string[] = [];
    while (got.length < 8) got.push(String((await stream.next()).body['id']));
    await own.report(got[0] ?? '');
    got.push(String((await stream.next()).body['id']));
    expect(stream.pending).toBe(0);
    await own.report(got[1] ?? '');
    got.push(String((await stream.next()).body['id']));
    expect(new Set(got).size).toBe(10);
    stream.close();
  });

  test('gets on the same stream what it has not confirmed when its lease lapses', async () => {
    const stream = await EventSource.open(server, token);
    const commandId = await own.issue('blink');
    expect((await stream.next()).body).toMatchObject({ id: commandId, attempt: 1 });
    clock.advance(30_000);
    expect((await stream.next()).body).toMatchObject({ id: commandId, attempt: 2 });
    stream.close();
  });

  test('is one that reports over HTTP on what it got as an event, also when it is larger than an answer', async () => {
    const payload = Buffer.alloc(32_768, 7).toString('base64');
    const stream = await EventSource.open(server, token);
    const commandId = await own.issue('flash', { payload, params: undefined });
    expect((await stream.next()).body).toMatchObject({ id: commandId, payload });
    stream.close();
  });
});

describe('Last-Event-ID', () => {
  test('confirms all up to it, and the stream goes on with what came after', async () => {
    const stream = await EventSource.open(server, token);
    const [a, b, c] = [await own.issue('a'), await own.issue('b'), await own.issue('c')];
    await stream.next();
    const { id: place } = await stream.next();
    await stream.next();
    stream.close();
    const again = await EventSource.open(server, token, place);
    expect([await stateOf(a), await stateOf(b)]).toEqual(['delivered', 'delivered']);
    expect((await again.next()).body).toMatchObject({ id: c, attempt: 2 });
    again.close();
  });

  test('confirms while the old stream still seems open, whose later events are sent again on the new one', async () => {
    const stream = await EventSource.open(server, token);
    const [a, b] = [await own.issue('a'), await own.issue('b')];
    const { id: place } = await stream.next();
    await stream.next();
    const again = await EventSource.open(server, token, place);
    expect((await again.next()).body).toMatchObject({ id: b });
    expect(await stateOf(a)).toBe('delivered');
    expect(again.pending).toBe(0);
    stream.close();
    again.close();
  });

  test('works as since of a poll, and what a poll gave as its cursor works as Last-Event-ID', async () => {
    const stream = await EventSource.open(server, token);
    const a = await own.issue('a');
    const { id: place } = await stream.next();
    stream.close();
    await server.commandIn(a, 'queued');
    expect((await own.poll(`?since=${place}`)).status).toBe(204);
    expect(await stateOf(a)).toBe('delivered');
    const b = await own.issue('b');
    const { cursor } = (await own.poll()).body;
    const again = await EventSource.open(server, token, cursor);
    expect(await stateOf(b)).toBe('delivered');
    again.close();
  });

  test('does not confirm what another stream of the device was given', async () => {
    const first = await EventSource.open(server, token);
    const a = await own.issue('a');
    await first.next();
    const second = await EventSource.open(server, token);
    // A new stream of the same device takes over what the first had not confirmed.
    expect((await second.next()).body).toMatchObject({ id: a, attempt: 2 });
    for (let i = 0; i < 8; i += 1) await own.issue(`n${i}`);
    second.close();
    const onFirst = [];
    while (onFirst.length < 8) onFirst.push(await first.next());
    const seen = new Set(onFirst.map(({ body }) => body['id']));
    const last = onFirst.at(-1)?.id ?? '';
    first.close();
    const again = await EventSource.open(server, token, last);
    const { body } = await server.request<{ commands: { id: string; state: string }[] }>('GET', `/v1/devices/${id}/commands`);
    for (const command of body.commands) expect(command.state === 'delivered').toBe(seen.has(command.id));
    again.close();
  });

  test.each([
    ['is none of ours', 'x'],
    ['is of another device', 'other'],
  ])('that %s is 400 invalid_cursor, and changes nothing', async (_, which) => {
    const stream = await EventSource.open(server, token);
    const a = await own.issue('a');
    const { id: place } = await stream.next();
    const stranger = await server.createDevice(`stranger-${nth}`);
    const wrong = which === 'other' ? EventSource.open(server, stranger, place) : EventSource.open(server, token, which);
    await expect(wrong).rejects.toThrow('400 invalid_cursor');
    expect(await stateOf(a)).toBe('sent');
    stream.close();
  });

  test('that is empty is none', async () => {
    const stream = await EventSource.open(server, token, '');
    stream.close();
  });
});

describe('a stream ends', () => {
  test('at once when the token is rotated, and when the device is deleted', async () => {
    const stream = await EventSource.open(server, token);
    const { body } = await server.request<{ token: string }>('POST', `/v1/devices/${id}/token`);
    await stream.ended();
    expect(stream.said).toContain('the token was withdrawn');
    await expect(EventSource.open(server, token)).rejects.toThrow('401 unauthorized');
    const second = await EventSource.open(server, body.token);
    await server.request('DELETE', `/v1/devices/${id}`);
    await second.ended();
  });

  test('when the device opens a third: two may be open, and the newest gets what comes', async () => {
    const streams = [await EventSource.open(server, token), await EventSource.open(server, token)];
    const third = await EventSource.open(server, token);
    await streams[0]?.ended();
    const commandId = await own.issue('a');
    expect((await third.next()).body).toMatchObject({ id: commandId });
    third.close();
    expect((await streams[1]?.next())?.body).toMatchObject({ id: commandId, attempt: 2 });
    streams[1]?.close();
  });

  test('politely when the server stops, with when to come back; what was not confirmed is there after the start', async () => {
    const own = await LiveServer.start();
    const ownToken = await own.createDevice('meter');
    const stream = await EventSource.open(own, ownToken);
    const issued = await own.issue('meter', { name: 'a' });
    await stream.next();
    await own.restart();
    await stream.ended();
    expect(stream.said).toMatch(/retry: \d+\n: the server is stopping\n\n$/);
    const again = await EventSource.open(own, ownToken);
    expect((await again.next()).body).toMatchObject({ id: issued.id, attempt: 2 });
    again.close();
    await own.close();
  });

  test('and the command that it had goes over HTTP to the next poll', async () => {
    const stream = await EventSource.open(server, token);
    const commandId = await own.issue('a');
    await stream.next();
    stream.close();
    await server.commandIn(commandId, 'queued');
    expect(commandsIn(await own.poll())).toMatchObject([{ id: commandId }]);
  });
});

test('an operator key opens no stream, and unknown parameters are refused', async () => {
  const { status } = await server.request('GET', '/v1/device/events');
  expect(status).toBe(403);
  const { status: unknown } = await server.request('GET', '/v1/device/events?limit=3', { credential: token });
  expect(unknown).toBe(400);
});
