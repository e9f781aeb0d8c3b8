import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { expectProblem } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

/** Devices that register themselves with a fleet key. */
type FleetKey = { id: string; registered: number; quota: number };
type Provisioned = { device: { id: string; labels: Record<string, string>; wake?: unknown; limits: unknown }; token: string };

let clock: TestClock;
let server: LiveServer;

beforeEach(async () => {
  clock = new TestClock(Date.parse('2026-05-01T12:00:00Z'));
  server = await LiveServer.start({}, clock);
});

afterEach(() => server.close());

const make = async (more: Record<string, unknown> = {}) => {
  const { status, body } = await server.request<{ key: FleetKey; secret: string }>('POST', '/v1/fleet-keys', {
    body: { name: 'batch', quota: 3, ...more },
  });
  expect(status).toBe(201);
  return body;
};
const provision = (credential: string, body: unknown) =>
  server.request<Provisioned>('POST', '/v1/provision', { credential, body });
const listed = async () => (await server.request<{ fleetKeys: FleetKey[] }>('GET', '/v1/fleet-keys')).body.fleetKeys;

test('a device registers itself once, with what the key gives it, and its token works', async () => {
  const { key, secret } = await make({
    idPrefix: 'meter-',
    labels: { batch: 'may' },
    wake: { everySeconds: 900 },
    limits: { leaseSeconds: 5 },
    graceSeconds: 7,
  });
  expect(secret).toMatch(/^dlf_[A-Za-z0-9_-]{43}$/);
  const { status, headers, body } = await provision(secret, { id: 'meter-1', name: 'Cellar', labels: { firmware: '2.1' } });
  expect(status).toBe(201);
  expect(headers.get('cache-control')).toBe('no-store');
  expect(body).toMatchObject({
    device: {
      id: 'meter-1',
      name: 'Cellar',
      labels: { batch: 'may', firmware: '2.1' },
      wake: { everySeconds: 900 },
      graceSeconds: 7,
      limits: { leaseSeconds: 5 },
    },
    token: expect.stringMatching(/^dld_/),
  });
  expect((await server.request('GET', '/v1/device/commands', { credential: body.token })).status).toBe(204);
  expectProblem(await provision(secret, { id: 'meter-1' }), 'device_exists');
  const own = await provision(secret, { id: 'meter-2', wake: { everySeconds: 60 } });
  expect(own.body.device.wake).toEqual({ everySeconds: 60 });
  expect(await listed()).toMatchObject([{ id: key.id, registered: 2, quota: 3 }]);
  const text = JSON.stringify(await listed());
  expect(text).not.toContain(secret);
  expect(text).not.toContain('digest');
  const { body: audit } = await server.request<{ entries: unknown[] }>('GET', '/v1/audit?action=device&target=meter-1');
  expect(audit.entries).toMatchObject([{ action: 'device.provision', actor: { kind: 'fleet_key', id: key.id, name: 'batch' } }]);
});

test('the quota holds for many at once, across a restart, and for devices that are deleted since', async () => {
  const { secret } = await make();
  const ids = Array.from({ length: 8 }, (_, i) => `d${i}`);
  const answers = await Promise.all(ids.map((id) => provision(secret, { id })));
  expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, 201, 201, 403, 403, 403, 403, 403]);
  await server.request('DELETE', '/v1/devices/d0');
  await server.restart();
  expectProblem(await provision(secret, { id: 'late' }), 'quota_exhausted');
  expectProblem(await provision(secret, { id: 'd1' }), 'device_exists');
});

test('of many devices with one id at once, one is registered, and what is refused does not count', async () => {
  const { secret } = await make({ quota: 100 });
  const answers = await Promise.all(Array.from({ length: 5 }, () => provision(secret, { id: 'same' })));
  expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, 409, 409, 409, 409]);
  expect(await listed()).toMatchObject([{ registered: 1 }]);
});

describe('a fleet key is refused', () => {
  test('once it has expired, and once it was revoked; its devices stay', async () => {
    const { key, secret } = await make({ expiresInSeconds: 60 });
    const { token } = (await provision(secret, { id: 'd' })).body;
    clock.advance(60_000);
    expectProblem(await provision(secret, { id: 'e' }), 'unauthorized');
    const other = await make();
    expect((await server.request('DELETE', `/v1/fleet-keys/${other.key.id}`)).status).toBe(204);
    expectProblem(await provision(other.secret, { id: 'e' }), 'unauthorized');
    expectProblem(await server.request('DELETE', `/v1/fleet-keys/${other.key.id}`), 'unknown_key');
    expect(await listed()).toMatchObject([{ id: key.id }]);
    expect((await server.request('GET', '/v1/device/commands', { credential: token })).status).toBe(204);
  });

  test('everywhere else, and other credentials where it is asked for', async () => {
    const { secret } = await make();
    const token = await server.createDevice('d');
    expectProblem(await server.request('GET', '/v1/devices', { credential: secret }), 'forbidden');
    expectProblem(await server.request('GET', '/v1/device/commands', { credential: secret }), 'forbidden');
    expectProblem(await provision(token, { id: 'e' }), 'forbidden');
    expectProblem(await server.request('POST', '/v1/provision', { body: { id: 'e' } }), 'forbidden');
    expectProblem(await provision(`${secret}x`, { id: 'e' }), 'unauthorized');
    await expect(server.connect('e', secret)).rejects.toThrow();
  });

  test.each<[string, Record<string, unknown>, Parameters<typeof expectProblem>[1], string]>([
    ['for an id that is not its', { id: 'pump-1' }, 'forbidden', 'id'],
    ['for a label that it sets otherwise', { id: 'meter-1', labels: { batch: 'june' } }, 'forbidden', 'labels.batch'],
    ['for limits, which are not for devices to say', { id: 'meter-1', limits: {} }, 'invalid_request', 'limits'],
    ['for an id that is none', { id: 'meter-1/x' }, 'invalid_request', 'id'],
    ['for a schedule that is none', { id: 'meter-1', wake: { cron: '61 * * * *' } }, 'invalid_request', 'wake.cron'],
  ])('%s, and that does not count', async (_, body, code, at) => {
    const { secret } = await make({ idPrefix: 'meter-', labels: { batch: 'may' } });
    expectProblem(await provision(secret, body), code, at);
    expect(await listed()).toMatchObject([{ registered: 0 }]);
    expect((await provision(secret, { id: 'meter-1', labels: { batch: 'may' } })).status).toBe(201);
  });
});

describe('a fleet key is not made', () => {
  test.each<[string, Record<string, unknown>, string]>([
    ['without a quota', { quota: undefined }, 'quota'],
    ['with a quota of none', { quota: 0 }, 'quota'],
    ['with an end that is past', { expiresAt: 1 }, 'expiresAt'],
    ['with a prefix that no id has', { idPrefix: 'a/b' }, 'idPrefix'],
    ['with a schedule that is none', { wake: { cron: '61 * * * *' } }, 'wake.cron'],
  ])('%s', async (_, more, at) => {
    const body = { name: 'batch', quota: 3, ...more };
    expectProblem(await server.request('POST', '/v1/fleet-keys', { body }), 'invalid_request', at);
    expect(await listed()).toEqual([]);
  });
});
