import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem, keyFor } from './api-support.ts';
import { LiveServer } from './live-server.ts';

/** Who may do what, on every route that the API's own document names. */
type Operation = { security?: Record<string, unknown>[]; description?: string };
type Document = { paths: Record<string, Record<string, Operation>> };
type Route = {
  name: string;
  method: string;
  path: string;
  by: 'operator' | 'device' | 'fleet' | 'anyone';
  role: string | undefined;
};

let server: LiveServer;
let routes: Route[];
let token: string;
const secrets: Record<string, string> = {};

beforeAll(async () => {
  server = await LiveServer.start();
  const { body } = await server.request<Document>('GET', '/openapi.json');
  routes = Object.entries(body.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, { security, description }]): Route => {
      const schemes = new Set((security ?? []).flatMap((one) => Object.keys(one)));
      return {
        name: `${method.toUpperCase()} ${path}`,
        method: method.toUpperCase(),
        path: path.replace('{id}', 'thing'),
        by: schemes.has('operatorKey')
          ? 'operator'
          : schemes.has('deviceToken')
            ? 'device'
            : schemes.has('fleetKey')
              ? 'fleet'
              : 'anyone',
        role: /Role: (\w+)\./.exec(description ?? '')?.[1],
      };
    }),
  );
  token = await server.createDevice('device');
  for (const role of ['viewer', 'operator', 'admin'] as const) secrets[role] = (await keyFor(server, role)).secret;
});

afterAll(() => server.close());

const ask = ({ method, path }: Route, credential: string, headers: Record<string, string> = {}) =>
  server.request(method, path, { credential, headers, ...(method === 'POST' || method === 'PATCH' ? { body: {} } : {}) });

test('every route is there, and only probes, metrics and documents are open', () => {
  expect(routes.map(({ name }) => name).toSorted()).toEqual([
    'DELETE /v1/commands/{id}',
    'DELETE /v1/devices/{id}',
    'DELETE /v1/devices/{id}/token',
    'DELETE /v1/fleet-keys/{id}',
    'DELETE /v1/keys/{id}',
    'GET /healthz',
    'GET /metrics',
    'GET /readyz',
    'GET /v1/audit',
    'GET /v1/backup',
    'GET /v1/commands/{id}',
    'GET /v1/device/commands',
    'GET /v1/device/events',
    'GET /v1/devices',
    'GET /v1/devices/{id}',
    'GET /v1/devices/{id}/commands',
    'GET /v1/devices/{id}/rejects',
    'GET /v1/devices/{id}/telemetry',
    'GET /v1/devices/{id}/telemetry/latest',
    'GET /v1/fleet-keys',
    'GET /v1/keys',
    'GET /v1/quarantine',
    'GET /v1/stream',
    'PATCH /v1/devices/{id}',
    'PATCH /v1/keys/{id}',
    'POST /v1/device/commands/{id}',
    'POST /v1/device/sync',
    'POST /v1/device/telemetry',
    'POST /v1/devices',
    'POST /v1/devices/{id}/commands',
    'POST /v1/devices/{id}/token',
    'POST /v1/fleet-keys',
    'POST /v1/keys',
    'POST /v1/provision',
  ]);
  expect(routes.filter(({ by }) => by === 'anyone').map(({ name }) => name)).toEqual([
    'GET /healthz',
    'GET /readyz',
    'GET /metrics',
  ]);
  expect(routes.filter(({ by, role }) => by === 'operator' && role === undefined)).toEqual([]);
});

describe('every guarded route', () => {
  const guarded = () => routes.filter(({ by }) => by !== 'anyone');

  test('answers 401 to who has no credential or an unknown one, and says how to send one', async () => {
    for (const route of guarded()) {
      for (const authorization of [
        '',
        'Bearer',
        'Bearer nothing',
        `Bearer dld_${'x'.repeat(43)}`,
        `Bearer ${token}x`,
        'Digest abc',
        'Basic !!',
        `Basic ${btoa('device:wrong')}`,
        `Basic ${btoa('nobody:nothing')}`,
      ]) {
        const answer = await ask(route, '', { authorization });
        expectProblem(answer, 'unauthorized');
        expect(answer.headers.get('www-authenticate')).toMatch(/^Bearer/);
      }
    }
  });

  test('answers 403 to the other kind of caller', async () => {
    for (const route of guarded()) {
      if (route.by === 'operator') {
        expectProblem(await ask(route, token), 'forbidden');
        expectProblem(await ask(route, '', { authorization: `Basic ${btoa(`device:${token}`)}` }), 'forbidden');
      } else {
        expectProblem(await ask(route, secrets['admin'] ?? ''), 'forbidden');
      }
    }
  });

  test('answers 403 to a lesser role, and lets the role it names in', async () => {
    const roles = ['viewer', 'operator', 'admin'];
    // These answer what is no JSON, without an end or after a long way.
    const apart = ['/v1/stream', '/v1/backup'];
    for (const route of guarded().filter(({ by, path }) => by === 'operator' && !apart.includes(path))) {
      const needed = roles.indexOf(route.role ?? '');
      for (const [rank, role] of roles.entries()) {
        const answer = await ask(route, secrets[role] ?? '');
        if (rank < needed) expectProblem(answer, 'forbidden');
        else expect([401, 403], route.name).not.toContain(answer.status);
      }
    }
  });
});

test('a device may say who it is by Basic, whose id must be the token’s', async () => {
  const other = await server.createDevice('other');
  const poll = (credentials: string) =>
    server.request('GET', '/v1/device/commands', { headers: { authorization: `Basic ${btoa(credentials)}` } });
  expect((await poll(`device:${token}`)).status).toBe(204);
  expectProblem(await poll(`device:${other}`), 'unauthorized');
});

test('the word Bearer is read in any case', async () => {
  expect((await server.request('GET', '/v1/devices', { headers: { authorization: `bearer ${secrets['viewer']}` } })).status).toBe(
    200,
  );
});

test('a credential is looked at before anything else of the request', async () => {
  const answer = await server.request('POST', '/v1/devices?x=1', {
    credential: 'nobody',
    body: '{',
    headers: { 'content-type': 'text/plain' },
  });
  expectProblem(answer, 'unauthorized');
});

test('what has no route is 404, whoever asks', async () => {
  for (const [method, path] of [
    ['GET', '/v1/nothing'],
    ['GET', '/v1/devices/device/colour'],
    ['PUT', '/v1/devices/device'],
    ['HEAD', '/v1/device/commands'],
    ['HEAD', '/v1/stream'],
  ] as const) {
    const answer = await server.request(method, path, { credential: 'nobody' });
    expect(answer.status).toBe(404);
    if (method !== 'HEAD') expectProblem(answer, 'not_found');
  }
  expectProblem(await server.request('POST', '/v1/nothing', { body: { a: 1 } }), 'not_found');
});
