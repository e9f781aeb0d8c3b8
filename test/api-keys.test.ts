import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem, keyFor } from './api-support.ts';
import { LiveServer } from './live-server.ts';

type Key = {
  id: string;
  name: string;
  role: string;
  createdAt: string;
  expiresAt?: string;
  lastUsedAt?: string;
  lastUsedFrom?: string;
  mqtt?: unknown;
};

let server: LiveServer;

beforeAll(async () => {
  server = await LiveServer.start();
});

afterAll(() => server.close());

const make = (body: unknown) => server.request<{ key: Key; secret: string }>('POST', '/v1/keys', { body });
const list = (query = '') => server.request<{ keys: Key[]; cursor?: string }>('GET', `/v1/keys${query}`);

describe('keys', () => {
  test('are made with a secret that is shown once and works, also after a restart', async () => {
    const { status, headers, body } = await make({ name: 'night shift', role: 'operator' });
    expect(status).toBe(201);
    expect(headers.get('cache-control')).toBe('no-store');
    expect(body).toEqual({
      key: { id: expect.any(String), name: 'night shift', role: 'operator', createdAt: expect.stringMatching(/^\d{4}-.*Z$/) },
      secret: expect.stringMatching(/^dlk_[A-Za-z0-9_-]{43}$/),
    });
    const text = JSON.stringify((await list()).body);
    expect(text).not.toContain(body.secret);
    expect(text).not.toContain('digest');
    await server.restart();
    expect((await server.request('GET', '/v1/devices', { credential: body.secret })).status).toBe(200);
  });

  test('are listed page by page', async () => {
    for (let i = 0; i < 3; i += 1) await make({ name: `k${i}`, role: 'viewer' });
    const all = (await list()).body.keys.map(({ id }) => id);
    const found: string[] = [];
    let query = '?limit=2';
    for (;;) {
      const { body } = await list(query);
      found.push(...body.keys.map(({ id }) => id));
      if (body.cursor === undefined) break;
      query = `?limit=2&cursor=${body.cursor}`;
    }
    expect(found).toEqual(all);
    expectProblem(await list('?cursor=x'), 'invalid_cursor', 'query.cursor');
    expectProblem(await list('?role=admin'), 'invalid_request', 'query.role');
  });

  test('are refused once revoked', async () => {
    const { id, secret } = await keyFor(server, 'viewer');
    expect(await server.request('DELETE', `/v1/keys/${id}`)).toMatchObject({ status: 204, body: {} });
    expectProblem(await server.request('GET', '/v1/devices', { credential: secret }), 'unauthorized');
    expectProblem(await server.request('DELETE', `/v1/keys/${id}`), 'unknown_key');
  });

  test('the last admin key stays, whatever is tried', async () => {
    expectProblem(await server.request('DELETE', '/v1/keys/admin'), 'last_admin_key');
    const { id, secret } = await keyFor(server, 'admin');
    const both = await Promise.all([
      server.request('DELETE', '/v1/keys/admin', { credential: secret }),
      server.request('DELETE', `/v1/keys/${id}`, { credential: secret }),
    ]);
    expect(both.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([204, 409]);
  });
});

describe('a key is refused', () => {
  test.each<[string, unknown, string | undefined]>([
    ['without a name', { role: 'viewer' }, 'name'],
    ['with an empty name', { name: '', role: 'viewer' }, 'name'],
    ['with a name too long', { name: 'x'.repeat(201), role: 'viewer' }, 'name'],
    ['without a role', { name: 'x' }, 'role'],
    ['with a role that is none', { name: 'x', role: 'root' }, 'role'],
    ['with a secret of its own', { name: 'x', role: 'viewer', secret: 'mine' }, 'secret'],
  ])('%s', async (_, body, at) => {
    const fresh = await LiveServer.start();
    try {
      expectProblem(await fresh.request('POST', '/v1/keys', { body }), 'invalid_request', at);
      expect((await fresh.request<{ keys: Key[] }>('GET', '/v1/keys')).body.keys.map(({ id }) => id)).toEqual(['admin']);
    } finally {
      await fresh.close();
    }
  });
});
