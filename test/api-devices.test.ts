import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

const START = Date.parse('2026-05-01T10:10:00Z');

type DeviceView = { id: string; labels: Record<string, string>; presence: Record<string, unknown>; openCommands: number };
type Page = { devices: DeviceView[]; cursor?: string };

let clock: TestClock;
let server: LiveServer;

beforeAll(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
});

afterAll(() => server.close());

const post = (body: unknown) => server.request('POST', '/v1/devices', { body });

describe('registering', () => {
  test('answers 201 with the whole device, its place and a token', async () => {
    const { status, headers, body } = await post({
      id: 'meter-1',
      name: 'Cellar',
      labels: { site: 'north', 'x/y_z.1-a': '' },
      wake: { cron: '0 * * * *', timezone: 'Europe/Berlin' },
      graceSeconds: 30,
      limits: { leaseSeconds: 5 },
    });
    expect(status).toBe(201);
    expect(headers.get('location')).toBe('/v1/devices/meter-1');
    expect(headers.get('cache-control')).toBe('no-store');
    expect(body).toEqual({
      token: expect.stringMatching(/^dld_[A-Za-z0-9_-]{43}$/),
      device: {
        id: 'meter-1',
        name: 'Cellar',
        labels: { site: 'north', 'x/y_z.1-a': '' },
        wake: { cron: '0 * * * *', timezone: 'Europe/Berlin' },
        graceSeconds: 30,
        limits: { leaseSeconds: 5 },
        createdAt: '2026-05-01T10:10:00.000Z',
        updatedAt: '2026-05-01T10:10:00.000Z',
        presence: { state: 'never', missedWakes: 0, nextWakeAt: '2026-05-01T11:00:00.000Z' },
        openCommands: 0,
      },
    });
  });

  test('a taken id is 409', async () => {
    await post({ id: 'twice' });
    expectProblem(await post({ id: 'twice' }), 'device_exists');
  });

  test('two at once register one', async () => {
    const statuses = (await Promise.all([post({ id: 'race' }), post({ id: 'race' })])).map(({ status }) => status);
    expect(statuses.toSorted((a, b) => a - b)).toEqual([201, 409]);
  });

  test.each<[string, unknown, string | undefined]>([
    ['an id that URLs swallow', { id: '..' }, 'id'],
    ['no id', {}, 'id'],
    ['an id out of form', { id: 'a b' }, 'id'],
    ['an id too long', { id: 'x'.repeat(65) }, 'id'],
    ['an id of another type', { id: 7 }, 'id'],
    ['a number as a string', { id: 'd', graceSeconds: '60' }, 'graceSeconds'],
    ['a fraction', { id: 'd', graceSeconds: 1.5 }, 'graceSeconds'],
    ['an unknown field', { id: 'd', colour: 'red' }, 'colour'],
    ['a field named like the prototype', '{"id":"d","__proto__":{"a":1}}', '__proto__'],
    ['an unknown field deeper', { id: 'd', limits: { speed: 1 } }, 'limits.speed'],
    ['a label of another type', { id: 'd', labels: { site: 1 } }, 'labels.site'],
    ['a label name out of form', { id: 'd', labels: { 'a b': 'c' } }, 'labels.a b'],
    ['a label too long', { id: 'd', labels: { a: 'x'.repeat(256) } }, 'labels.a'],
    ['too many labels', { id: 'd', labels: Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`l${i}`, ''])) }, 'labels'],
    ['a cron expression of another type', { id: 'd', wake: { cron: 5 } }, 'wake.cron'],
    ['a cron expression that is none', { id: 'd', wake: { cron: 'at noon' } }, 'wake.cron'],
    ['a zone that is none', { id: 'd', wake: { cron: '* * * * *', timezone: 'Mars/Olympus' } }, 'wake.timezone'],
    ['an interval of nothing', { id: 'd', wake: { everySeconds: 0 } }, 'wake.everySeconds'],
    ['both kinds of schedule', { id: 'd', wake: { cron: '* * * * *', everySeconds: 60 } }, 'wake'],
    ['neither kind', { id: 'd', wake: {} }, 'wake'],
    ['an array', [], undefined],
    ['null', 'null', undefined],
  ])('%s is refused with its place', async (_, body, at) => {
    expectProblem(await post(body), 'invalid_request', at);
    expect((await server.request('GET', '/v1/devices/d')).status).toBe(404);
  });
});

describe('showing and changing', () => {
  test('a device that is not there is 404', async () => {
    for (const [method, path, body] of [
      ['GET', '/v1/devices/nobody', undefined],
      ['PATCH', '/v1/devices/nobody', { name: 'x' }],
      ['DELETE', '/v1/devices/nobody', undefined],
      ['POST', '/v1/devices/nobody/token', undefined],
    ] as const) {
      expectProblem(await server.request(method, path, { body }), 'unknown_device');
    }
    expectProblem(await server.request('GET', '/v1/devices/a%20b'), 'invalid_request', 'path.id');
  });

  test('a change keeps what is left out, and null takes away', async () => {
    await post({ id: 'change', name: 'Old', labels: { a: '1', b: '2' }, wake: { everySeconds: 60 } });
    clock.advance(1_000);
    const change = (body: unknown) => server.request('PATCH', '/v1/devices/change', { body });
    expect((await change({ labels: { c: '3' } })).body).toMatchObject({
      name: 'Old',
      labels: { c: '3' },
      wake: { everySeconds: 60 },
      updatedAt: new Date(clock.now()).toISOString(),
    });
    const { status, body } = await change({ name: null, wake: null });
    expect(status).toBe(200);
    expect(body).not.toHaveProperty('name');
    expect(body).not.toHaveProperty('wake');
    expect(body['presence']).toEqual({ state: 'never', missedWakes: 0 });
    expect((await server.request('GET', '/v1/devices/change')).body).toEqual(body);
  });

  test('a new schedule changes the presence at once', async () => {
    const token = await server.createDevice('slow', { wake: { everySeconds: 3_600 } });
    await server.request('POST', '/v1/device/telemetry', { credential: token, body: { level: 1 } });
    clock.advance(600_000);
    expect((await server.request<DeviceView>('GET', '/v1/devices/slow')).body.presence['state']).toBe('asleep');
    const { body } = await server.request<DeviceView>('PATCH', '/v1/devices/slow', { body: { wake: { everySeconds: 60 } } });
    expect(body.presence['state']).toBe('lost');
  });

  test('a new schedule makes no device late that was told to come later', async () => {
    const token = await server.createDevice('promised', { wake: { everySeconds: 3_600, slackSeconds: 0 } });
    await server.request('GET', '/v1/device/commands', { credential: token });
    clock.advance(600_000);
    const { body } = await server.request<DeviceView>('PATCH', '/v1/devices/promised', { body: { wake: { everySeconds: 60 } } });
    expect(body.presence).toMatchObject({ state: 'asleep', nextWakeAt: new Date(clock.now() + 3_000_000).toISOString() });
  });

  test.each<[string, unknown, string | undefined]>([
    ['nothing', {}, undefined],
    ['the id', { id: 'other' }, 'id'],
    ['a bad schedule', { wake: { everySeconds: 'often' } }, 'wake.everySeconds'],
    ['no labels', { labels: null }, 'labels'],
  ])('changing %s is refused', async (_, body, at) => {
    expectProblem(await server.request('PATCH', '/v1/devices/change', { body }), 'invalid_request', at);
  });
});

describe('rotating and deleting', () => {
  test('a new token takes the old one’s place', async () => {
    const old = await server.createDevice('rotate');
    const { status, body } = await server.request<{ token: string }>('POST', '/v1/devices/rotate/token');
    expect(status).toBe(200);
    expectProblem(await server.request('GET', '/v1/device/commands', { credential: old }), 'unauthorized');
    expect((await server.request('GET', '/v1/device/commands', { credential: body.token })).status).toBe(204);
  });

  test('a route that takes no body refuses one, and not an empty one', async () => {
    await server.createDevice('bodyless');
    const path = '/v1/devices/bodyless/token';
    expectProblem(await server.request('POST', path, { body: { force: true } }), 'invalid_request');
    expect((await server.request('POST', path, { headers: { 'content-type': 'application/json' } })).status).toBe(200);
  });

  test('a deleted device’s token is refused, its commands are cancelled, its rejects forgotten', async () => {
    const token = await server.createDevice('gone');
    const { id } = await server.issue('gone', { name: 'blink' });
    await server.request('POST', '/v1/device/telemetry', { credential: token, body: 'x' });
    const { status, body } = await server.request('DELETE', '/v1/devices/gone');
    expect({ status, body }).toEqual({ status: 204, body: {} });
    expectProblem(await server.request('GET', '/v1/device/commands', { credential: token }), 'unauthorized');
    expect(await server.command(id)).toMatchObject({ state: 'cancelled', error: 'the device was deleted' });
    expectProblem(await server.request('GET', '/v1/devices/gone'), 'unknown_device');
    await server.createDevice('gone');
    expect((await server.request('GET', '/v1/devices/gone/rejects')).body).toEqual({ rejects: [] });
  });
});

describe('listing', () => {
  const list = (query: string) => server.request<Page>('GET', `/v1/devices?${query}`);

  beforeAll(async () => {
    for (let i = 0; i < 12; i += 1) {
      await server.createDevice(`list-${String(i).padStart(2, '0')}`, {
        labels: { set: 'list', odd: String(i % 2), at: '10:30' },
      });
    }
  });

  test('goes page by page in the order of ids, with a cursor only while there is more', async () => {
    const ids: string[] = [];
    const pages: number[] = [];
    let cursor: string | undefined;
    do {
      const { body } = await list(`label=set:list&limit=5${cursor === undefined ? '' : `&cursor=${cursor}`}`);
      ids.push(...body.devices.map(({ id }) => id));
      pages.push(body.devices.length);
      cursor = body.cursor;
    } while (cursor !== undefined);
    expect(ids).toEqual(Array.from({ length: 12 }, (_, i) => `list-${String(i).padStart(2, '0')}`));
    expect(pages).toEqual([5, 5, 2]);
    expect((await list('label=set:list&limit=12')).body).not.toHaveProperty('cursor');
  });

  test('filters by labels, which must all match, values with colons too', async () => {
    const { body } = await list('label=set:list&label=odd:1&label=at:10:30');
    expect(body.devices).toHaveLength(6);
    expect((await list('label=set:list&label=odd:7')).body).toEqual({ devices: [] });
  });

  test('filters by presence', async () => {
    const token = await server.createDevice('present', { labels: { set: 'presence' } });
    await server.createDevice('absent', { labels: { set: 'presence' } });
    await server.request('GET', '/v1/device/commands', { credential: token });
    const names = async (query: string) => (await list(`label=set:presence&${query}`)).body.devices.map(({ id }) => id);
    expect(await names('presence=asleep')).toEqual(['present']);
    expect(await names('presence=asleep&presence=never')).toEqual(['absent', 'present']);
    const first = (await list('label=set:presence&presence=never&presence=asleep&limit=1')).body;
    expect(first.devices.map(({ id }) => id)).toEqual(['absent']);
    expect(await names(`presence=never&presence=asleep&cursor=${first.cursor}`)).toEqual(['present']);
  });

  test.each([
    ['limit=0', 'query.limit'],
    ['limit=1001', 'query.limit'],
    ['limit=ten', 'query.limit'],
    ['limit=1.5', 'query.limit'],
    ['limit=0x10', 'query.limit'],
    ['limit=', 'query.limit'],
    ['limit=1&limit=2', 'query.limit'],
    ['label=north', 'query.label'],
    ['label=:north', 'query.label'],
    ['presence=here', 'query.presence'],
    ['presence=late,', 'query.presence'],
    ['colour=red', 'query.colour'],
  ])('%s is refused', async (query, at) => {
    expectProblem(await list(query), 'invalid_request', at);
  });

  test.each([
    'nonsense',
    'ZGV2aWNlczo',
    Buffer.from('keys:a').toString('base64url'),
    Buffer.from('devices:a b').toString('base64url'),
  ])('the cursor %s is refused as none of this list’s', async (cursor) => {
    expectProblem(await list(`cursor=${cursor}`), 'invalid_cursor', 'query.cursor');
  });
});
