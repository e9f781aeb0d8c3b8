import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectAsync } from 'mqtt';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Audit, AUDIT_KEPT_DAYS, type AuditAction } from '../broker/audit.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { expectProblem, keyFor } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

/** Who did what: on record with the deed, asked for by an admin, bounded. */
type Entry = {
  id: string;
  time: string;
  action: string;
  target?: string;
  outcome: string;
  from?: string;
  actor: { kind: string; id: string; name: string };
  details?: Record<string, unknown>;
};

describe('the audit log of a server', () => {
  const clock = new TestClock(Date.parse('2026-05-01T12:00:00Z'));
  let server: LiveServer;

  beforeEach(async () => {
    server = await LiveServer.start({}, clock);
  });

  afterEach(() => server.close());

  const audit = async (query = '') =>
    (await server.request<{ entries: Entry[]; cursor?: string }>('GET', `/v1/audit${query}`)).body;
  const actions = async (query = '') => (await audit(query)).entries.map(({ action }) => action);

  test('has every deed of an operator, newest first, also after a restart', async () => {
    await server.createDevice('pump', { labels: { site: 'north' } });
    await server.request('PATCH', '/v1/devices/pump', { body: { name: 'Pump' } });
    await server.request('POST', '/v1/devices/pump/token');
    await server.request('DELETE', '/v1/devices/pump/token');
    await server.request('DELETE', '/v1/devices/pump/token');
    const { id } = await server.issue('pump', { name: 'start' });
    await server.request('DELETE', `/v1/commands/${id}`);
    await server.request('DELETE', `/v1/commands/${id}`);
    const key = await keyFor(server, 'viewer');
    await server.request('PATCH', `/v1/keys/${key.id}`, { body: { name: 'x' } });
    await server.request('DELETE', `/v1/keys/${key.id}`);
    await server.request('DELETE', '/v1/devices/pump');
    await server.restart();
    const { entries } = await audit();
    expect(entries.map(({ action, target }) => [action, target])).toEqual([
      ['device.delete', 'pump'],
      ['key.revoke', key.id],
      ['key.change', key.id],
      ['key.create', key.id],
      ['command.cancel', id],
      ['command.issue', id],
      ['token.revoke', 'pump'],
      ['token.rotate', 'pump'],
      ['device.change', 'pump'],
      ['device.create', 'pump'],
    ]);
    const by = { kind: 'key', id: 'admin', name: 'first admin' };
    for (const entry of entries) expect(entry).toMatchObject({ actor: by, outcome: 'done', from: '127.0.0.1' });
    expect(entries[0]?.time).toBe('2026-05-01T12:00:00.000Z');
    expect(entries[4]?.details).toEqual({ device: 'pump', name: 'start', force: false });
    expect(entries[8]?.details).toEqual({ name: 'Pump' });
  });

  test('has nothing of what was refused, and nothing secret', async () => {
    const token = await server.createDevice('pump');
    await server.request('POST', '/v1/devices', { body: { id: 'pump' } });
    await server.request('POST', '/v1/devices/nobody/token');
    await server.request('POST', '/v1/devices/pump/commands', { body: { name: 'x', params: 1, payload: 'AA==' } });
    await server.request('POST', '/v1/keys', { body: { name: 'x', role: 'viewer', expiresAt: 1 } });
    await server.request('DELETE', '/v1/keys/admin');
    const { secret } = await keyFor(server, 'viewer');
    expect(await actions()).toEqual(['key.create', 'device.create']);
    const text = JSON.stringify(await audit());
    expect(text).not.toContain(token.slice(4));
    expect(text).not.toContain(secret.slice(4));
  });

  test('is asked by actor, action, target and time, page by page', async () => {
    const { id, secret } = await keyFor(server, 'operator');
    for (const device of ['a', 'b']) await server.createDevice(device);
    clock.advance(60_000);
    const { body } = await server.request<{ id: string }>('POST', '/v1/devices/a/commands', {
      body: { name: 'x' },
      credential: secret,
    });
    expect(await actions(`?actor=${id}`)).toEqual(['command.issue']);
    expect(await actions('?action=device')).toEqual(['device.create', 'device.create']);
    expect(await actions('?action=device.create')).toHaveLength(2);
    expect(await actions('?action=dev')).toEqual([]);
    expect(await actions('?target=a')).toEqual(['command.issue', 'device.create']);
    expect(await actions(`?target=${body.id}`)).toEqual(['command.issue']);
    const now = clock.now();
    expect(await actions(`?from=${now}`)).toEqual(['command.issue']);
    expect(await actions(`?to=${now}`)).toEqual(['device.create', 'device.create', 'key.create']);
    const found: string[] = [];
    for (let query = '?limit=1'; ;) {
      const { entries, cursor } = await audit(query);
      found.push(...entries.map(({ id: entryId }) => entryId));
      if (cursor === undefined) break;
      query = `?limit=1&cursor=${cursor}`;
    }
    expect(found).toEqual((await audit()).entries.map(({ id: entryId }) => entryId));
    expectProblem(await server.request('GET', '/v1/audit?cursor=x'), 'invalid_cursor', 'query.cursor');
    expectProblem(await server.request('GET', '/v1/audit?from=yesterday'), 'invalid_request', 'query.from');
  });

  test('is written together with the deed, so that after a crash neither is there without the other', async () => {
    const commits = vi.spyOn(LevelState.prototype, 'commit');
    try {
      await server.createDevice('pump');
      await server.request('PATCH', '/v1/devices/pump', { body: { name: 'Pump' } });
      await server.request('POST', '/v1/devices/pump/token');
      await server.request('DELETE', '/v1/devices/pump/token');
      await server.issue('pump', { name: 'start' });
      const { id } = await keyFor(server, 'viewer');
      await server.request('PATCH', `/v1/keys/${id}`, { body: { name: 'x' } });
      await server.request('DELETE', `/v1/keys/${id}`);
      const fleet = { name: 'f', quota: 1 };
      const { body } = await server.request<{ secret: string }>('POST', '/v1/fleet-keys', { body: fleet });
      await server.request('POST', '/v1/provision', { credential: body.secret, body: { id: 'other' } });
      await server.request('DELETE', '/v1/devices/other');
      const deeds = commits.mock.calls
        .map(([changes]) => changes.map((change) => ('put' in change ? change.put : change.del)))
        .filter((keys) => keys.some((key) => /^(device|key|fleet-key|command)\//.test(key)));
      expect(deeds).toHaveLength(11);
      for (const keys of deeds) expect(keys).toContainEqual(expect.stringMatching(/^audit\//));
    } finally {
      commits.mockRestore();
    }
  });

  test('is for admins alone', async () => {
    const { secret } = await keyFor(server, 'operator');
    expectProblem(await server.request('GET', '/v1/audit', { credential: secret }), 'forbidden');
  });

  test('counts refused logins by address, and keeps nothing of what was tried', async () => {
    const tried = 'dlk_almost-the-right-one';
    for (let i = 0; i < 5; i += 1) await server.request('GET', '/v1/devices', { credential: tried });
    await server.request('GET', '/v1/device/commands', { headers: { authorization: `Basic ${btoa('pump:wrong')}` } });
    const wrong = { clientId: 'pump', username: 'pump', password: tried, reconnectPeriod: 0 };
    await expect(connectAsync(`mqtt://127.0.0.1:${server.mqttPort}`, wrong)).rejects.toThrow(/not authorized|bad user/i);
    // Told once a minute, and when the server stops.
    await server.restart();
    const { entries } = await audit('?action=login');
    expect(
      entries.toSorted((a, b) => (String(a.details?.['transport']) < String(b.details?.['transport']) ? -1 : 1)),
    ).toMatchObject([
      {
        action: 'login.refused',
        outcome: 'refused',
        from: '127.0.0.1',
        actor: { kind: 'nobody' },
        details: { transport: 'http', count: 6 },
      },
      { action: 'login.refused', from: '127.0.0.1', details: { transport: 'mqtt', count: 1 } },
    ]);
    expect(JSON.stringify(entries)).not.toContain('almost');
  });
});

describe('the audit log in State', () => {
  const clock = new TestClock(Date.parse('2026-05-01T12:00:00Z'));
  let folder: string;
  let state: LevelState;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'downlink-audit-'));
    state = await LevelState.open({ folder, journalBytesMax: 64 * 1024 * 1024, clock });
  });

  afterEach(async () => {
    await state.close();
    await rm(folder, { recursive: true, force: true });
  });

  const deed = (action: AuditAction, target: string) => ({
    actor: { kind: 'key', id: 'k', name: 'K' } as const,
    action,
    target,
  });
  const targets = async (audit: Audit): Promise<(string | undefined)[]> =>
    (await audit.list({ limit: 100 })).entries.map(({ target }) => target);

  test('keeps so many of each kind: commands push out none of the rest', async () => {
    const audit = new Audit(state, clock, 3);
    await audit.write(audit.entryOf(deed('key.create', 'first')));
    for (let i = 0; i < 10; i += 1) await audit.write(audit.entryOf(deed('command.issue', `c${i}`)));
    await audit.sweep();
    expect(await targets(audit)).toEqual(['c9', 'c8', 'c7', 'first']);
  });

  test('keeps it for so many days', async () => {
    const audit = new Audit(state, clock);
    await audit.write(audit.entryOf(deed('key.create', 'old')));
    clock.advance(AUDIT_KEPT_DAYS * 86_400_000);
    await audit.write(audit.entryOf(deed('key.create', 'new')));
    clock.advance(1);
    await audit.sweep();
    expect(await targets(audit)).toEqual(['new']);
  });

  test('sweeps by itself when much comes', async () => {
    const audit = new Audit(state, clock, 100);
    for (let i = 0; i < 6_000; i += 1) void audit.write(audit.entryOf(deed('command.issue', `c${i}`)));
    await audit.write(audit.entryOf(deed('command.issue', 'last')));
    await audit.sweep();
    let kept = 0;
    for await (const _ of state.scan('audit/')) kept += 1;
    expect(kept).toBeLessThanOrEqual(100);
  });

  test('gives no id twice, though the clock stands still or goes back, across a restart', async () => {
    const audit = new Audit(state, clock);
    for (let i = 0; i < 3; i += 1) await audit.write(audit.entryOf(deed('key.create', `a${i}`)));
    const later = new Audit(state, { now: () => clock.now() - 3_600_000 });
    await later.load();
    await later.write(later.entryOf(deed('key.create', 'b')));
    expect(await targets(later)).toEqual(['b', 'a2', 'a1', 'a0']);
  });
});
