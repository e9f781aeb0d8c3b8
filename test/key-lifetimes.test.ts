import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { expectProblem, keyFor } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

/** How long a key lasts, when it was last used, and what happens to what it has open when it ends. */
type Key = { id: string; role: string; expiresAt?: string; lastUsedAt?: string; lastUsedFrom?: string; mqtt?: unknown };

const START = Date.parse('2026-05-01T12:00:00Z');
let clock: TestClock;
let server: LiveServer;

beforeEach(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
});

afterEach(() => server.close());

const make = (body: unknown) => server.request<{ key: Key; secret: string }>('POST', '/v1/keys', { body });
const change = (id: string, body: unknown) => server.request<Key>('PATCH', `/v1/keys/${id}`, { body });
const listed = async (id: string) =>
  (await server.request<{ keys: Key[] }>('GET', '/v1/keys')).body.keys.find((key) => key.id === id);
const ask = (credential: string) => server.request('GET', '/v1/devices', { credential });

/** A live stream of this key, whose end can be waited for. */
async function follow(credential: string): Promise<{ ended: Promise<string> }> {
  const response = await fetch(`${server.url}/v1/stream`, { headers: { authorization: `Bearer ${credential}` } });
  expect(response.status).toBe(200);
  return { ended: response.text() };
}

describe('a key with an end', () => {
  test('works until then and not after, also across a restart, and is listed until it is revoked', async () => {
    const { body } = await make({ name: 'guest', role: 'viewer', expiresInSeconds: 60 });
    expect(body.key.expiresAt).toBe('2026-05-01T12:01:00.000Z');
    clock.advance(59_999);
    expect((await ask(body.secret)).status).toBe(200);
    clock.advance(1);
    expectProblem(await ask(body.secret), 'unauthorized');
    await server.restart();
    expectProblem(await ask(body.secret), 'unauthorized');
    expect(await listed(body.key.id)).toMatchObject({ expiresAt: '2026-05-01T12:01:00.000Z' });
    expect((await server.request('DELETE', `/v1/keys/${body.key.id}`)).status).toBe(204);
    expect(await listed(body.key.id)).toBeUndefined();
  });

  test('may be given another end, or none', async () => {
    const { body } = await make({ name: 'guest', role: 'viewer', expiresAt: '2026-05-01T12:01:00Z' });
    expect((await change(body.key.id, { expiresInSeconds: 600 })).body.expiresAt).toBe('2026-05-01T12:10:00.000Z');
    clock.advance(120_000);
    expect((await ask(body.secret)).status).toBe(200);
    expect((await change(body.key.id, { expiresAt: null })).body).not.toHaveProperty('expiresAt');
    clock.advance(3_600_000);
    expect((await ask(body.secret)).status).toBe(200);
  });

  test.each<[string, unknown, string]>([
    ['a time that is past', { expiresAt: START - 1 }, 'expiresAt'],
    ['no time at all', { expiresAt: 'tomorrow' }, 'expiresAt'],
    ['two ends', { expiresAt: START + 1, expiresInSeconds: 5 }, 'expiresInSeconds'],
    ['zero seconds', { expiresInSeconds: 0 }, 'expiresInSeconds'],
  ])('is refused with %s', async (_, end, at) => {
    expectProblem(await make({ name: 'x', role: 'viewer', ...(end as object) }), 'invalid_request', at);
  });

  test('is no admin key to be left alone with', async () => {
    expectProblem(await change('admin', { expiresInSeconds: 60 }), 'last_admin_key');
    await make({ name: 'brief', role: 'admin', expiresInSeconds: 60 });
    expectProblem(await server.request('DELETE', '/v1/keys/admin'), 'last_admin_key');
    expectProblem(await change('admin', { role: 'operator' }), 'last_admin_key');
    await keyFor(server, 'admin');
    expect((await change('admin', { role: 'operator' })).status).toBe(200);
  });
});

describe('the last use of a key', () => {
  test('is shown with its address, and is there after a restart', async () => {
    const { id, secret } = await keyFor(server, 'viewer');
    expect(await listed(id)).not.toHaveProperty('lastUsedAt');
    clock.advance(5_000);
    await ask(secret);
    const used = { lastUsedAt: '2026-05-01T12:00:05.000Z', lastUsedFrom: '127.0.0.1' };
    expect(await listed(id)).toMatchObject(used);
    await server.restart();
    expect(await listed(id)).toMatchObject(used);
  });

  test('goes with the key', async () => {
    const { id, secret } = await keyFor(server, 'viewer');
    await ask(secret);
    await server.request('DELETE', `/v1/keys/${id}`);
    await server.restart();
    expect(await listed(id)).toBeUndefined();
  });
});

describe('what a key has open ends within a second', () => {
  test('when it is revoked: live streams of it, and of no other', async () => {
    const [gone, stays] = [await keyFor(server, 'viewer'), await keyFor(server, 'viewer')];
    const streams = { gone: await follow(gone.secret), stays: await follow(stays.secret) };
    await server.request('DELETE', `/v1/keys/${gone.id}`);
    expect(await streams.gone.ended).toContain('the key was revoked');
    await server.request('DELETE', `/v1/keys/${stays.id}`);
    expect(await streams.stays.ended).toContain('the key was revoked');
  });

  test('when it expires', async () => {
    const { body } = await make({ name: 'guest', role: 'viewer', expiresInSeconds: 60 });
    const stream = await follow(body.secret);
    clock.advance(60_000);
    expect(await stream.ended).toContain('the key has expired');
  });

  test('when it is given another role', async () => {
    const { id, secret } = await keyFor(server, 'operator');
    const stream = await follow(secret);
    expect((await change(id, { role: 'viewer' })).body.role).toBe('viewer');
    expect(await stream.ended).toContain('other rights');
  });

  test('when a request of it waits for an outcome; the command stands', async () => {
    await server.createDevice('pump');
    const { id, secret } = await keyFor(server, 'operator');
    const waiting = server.request('POST', '/v1/devices/pump/commands?wait=60', { body: { name: 'start' }, credential: secret });
    for (;;) {
      const { body } = await server.request<{ commands: unknown[] }>('GET', '/v1/devices/pump/commands');
      if (body.commands.length > 0) break;
    }
    await server.request('DELETE', `/v1/keys/${id}`);
    expectProblem(await waiting, 'unauthorized');
    const { body } = await server.request<{ commands: { state: string }[] }>('GET', '/v1/devices/pump/commands');
    expect(body.commands).toMatchObject([{ state: 'queued' }]);
  });
});

describe('rights on MQTT', () => {
  test('are kept with the key, and taken away by null', async () => {
    const mqtt = {
      allow: [{ filter: 'devices/+/telemetry', subscribe: true }, { filter: 'lab/#' }],
      deny: [{ filter: 'lab/x' }],
    };
    const { status, body } = await make({ name: 'charts', role: 'viewer', mqtt });
    expect(status).toBe(201);
    await server.restart();
    expect((await listed(body.key.id))?.mqtt).toEqual(mqtt);
    expect((await change(body.key.id, { mqtt: null })).body).not.toHaveProperty('mqtt');
  });

  test.each<[string, unknown, string]>([
    ['a # in the middle', { allow: [{ filter: 'a/#/b' }] }, 'mqtt.allow[0].filter'],
    ['a # beside other characters', { allow: [{ filter: 'ok' }, { filter: 'a#' }] }, 'mqtt.allow[1].filter'],
    ['a + beside other characters', { allow: [], deny: [{ filter: '+b' }] }, 'mqtt.deny[0].filter'],
    ['NUL', { allow: [{ filter: 'a\0' }] }, 'mqtt.allow[0].filter'],
    ['no filter', { allow: [{ filter: '' }] }, 'mqtt.allow[0].filter'],
    ["publishing to a device's topics", { allow: [{ filter: 'devices/+/commands', publish: true }] }, 'mqtt.allow[0].filter'],
    ["both ways on a device's topics", { allow: [{ filter: 'devices/#' }] }, 'mqtt.allow[0].filter'],
    ["publishing to the server's topics", { allow: [{ filter: '$SYS/#' }] }, 'mqtt.allow[0].filter'],
  ])('are refused with %s', async (_, mqtt, at) => {
    expectProblem(await make({ name: 'x', role: 'viewer', mqtt }), 'invalid_request', at);
  });

  test('are refused with half a surrogate pair, which no body may have', async () => {
    expectProblem(await make({ name: 'x', role: 'viewer', mqtt: { allow: [{ filter: 'a\ud800' }] } }), 'invalid_json');
  });
});
