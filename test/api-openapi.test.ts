import { Compile } from 'typebox/compile';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ADMIN_KEY, LiveServer } from './live-server.ts';

/** The document that /openapi.json gives says what the server does. */
type Schema = Record<string, unknown>;
type Media = { schema?: Schema; example?: unknown };
type Operation = {
  operationId?: string;
  summary?: string;
  tags?: string[];
  requestBody?: { content: Record<string, Media> };
  responses: Record<string, { description: string; content?: Record<string, Media> }>;
};
type Document = {
  openapi: string;
  tags: { name: string }[];
  components: { schemas: Record<string, Schema>; securitySchemes: Record<string, unknown> };
  paths: Record<string, Record<string, Operation>>;
};

let server: LiveServer;
let document: Document;

beforeAll(async () => {
  server = await LiveServer.start();
  document = (await server.request<Document>('GET', '/openapi.json')).body;
});

afterAll(() => server.close());

/** The schema with what it refers to put in its place, and closed: an answer has no field that the document does not name. */
function whole(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(whole);
  if (typeof node !== 'object' || node === null) return node;
  const { $ref: ref, ...rest } = node as Schema;
  if (typeof ref !== 'string') {
    const schema = Object.fromEntries(Object.entries(rest).map(([name, inner]) => [name, whole(inner)]));
    return rest['type'] === 'object' && 'properties' in rest ? { additionalProperties: false, ...schema } : schema;
  }
  const schema = document.components.schemas[ref.replace('#/components/schemas/', '')];
  if (schema === undefined) throw new Error(`${ref} is not in the document`);
  return whole(schema);
}

function expectToFit(value: unknown, schema: Schema, what: string): void {
  const validator = Compile(whole(schema) as Schema);
  expect(validator.Check(value) ? [] : validator.Errors(value), what).toEqual([]);
}

const operations = () =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ name: `${method.toUpperCase()} ${path}`, ...operation })),
  );

test('every operation has a name of its own, a summary, and a tag that is described', () => {
  expect(document.openapi).toBe('3.1.0');
  const tags = new Set(document.tags.map(({ name }) => name));
  for (const { name, summary, tags: own, responses } of operations()) {
    expect(summary, name).toBeTruthy();
    expect(
      own?.every((tag) => tags.has(tag)),
      name,
    ).toBe(true);
    for (const [status, { description }] of Object.entries(responses))
      expect(description, `${name} ${status}`).not.toBe('Default Response');
  }
  const ids = operations().map(({ operationId }) => operationId);
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids).not.toContain(undefined);
});

test('every reference leads somewhere, and every example fits its schema', () => {
  for (const [name, schema] of Object.entries(document.components.schemas)) {
    for (const example of (schema['examples'] as unknown[] | undefined) ?? []) expectToFit(example, schema, name);
  }
  for (const { name, requestBody, responses } of operations()) {
    const media = [requestBody, ...Object.values(responses)].flatMap((part) => Object.values(part?.content ?? {}));
    for (const { schema, example } of media) {
      whole(schema);
      if (schema !== undefined && example !== undefined) expectToFit(example, schema, name);
    }
  }
});

test('nothing of the inside is in it', () => {
  expect(JSON.stringify(document)).not.toMatch(/historyNs|leaseUntil|reportBy|"(?:tokenDigest|digest|\$id)"/);
});

describe('answers are as the document says', () => {
  type Asked = { credential?: string; body?: unknown; headers?: Record<string, string> };

  /** Asks, and holds the answer against what the document says of this operation and status. */
  async function ask(operation: string, path: string, options: Asked = {}): Promise<Record<string, unknown>> {
    const [method = '', template = ''] = operation.split(' ');
    const { status, headers, body } = await server.request(method, path, { credential: ADMIN_KEY, ...options });
    const declared = document.paths[template]?.[method.toLowerCase()]?.responses[status];
    expect(declared, `${operation} answered ${status} ${JSON.stringify(body)}`).toBeDefined();
    const [type = ''] = (headers.get('content-type') ?? '').split(';');
    const schema = declared?.content?.[type]?.schema;
    if (status === 204) expect(declared?.content).toBeUndefined();
    else if (schema === undefined) throw new Error(`${operation} ${status} says nothing of ${type}`);
    else expectToFit(body, schema, `${operation} ${status}`);
    return body;
  }

  test('on the way of a device from its registration to its end', async () => {
    const created = await ask('POST /v1/devices', '/v1/devices', {
      body: { id: 'd', name: 'D', labels: { a: 'b' }, wake: { cron: '*/5 * * * *' }, limits: { leaseSeconds: 5 } },
    });
    await ask('POST /v1/devices', '/v1/devices', { body: { id: 'd' } });
    await ask('POST /v1/devices', '/v1/devices', { body: { id: 5 } });
    await ask('POST /v1/devices', '/v1/devices', { body: '{' });
    await ask('POST /v1/devices', '/v1/devices', { credential: 'x' });
    await ask('GET /v1/devices', '/v1/devices?limit=1');
    await ask('PATCH /v1/devices/{id}', '/v1/devices/d', { body: { wake: { everySeconds: 60 }, name: null } });
    const credential = String((await ask('POST /v1/devices/{id}/token', '/v1/devices/d/token'))['token']);
    expect(credential).not.toBe(created['token']);

    const issued = await ask('POST /v1/devices/{id}/commands', '/v1/devices/d/commands', {
      body: { name: 'x', params: [1], key: 'k', expires: { wakes: 2 }, notBefore: Date.now() - 1 },
    });
    await ask('POST /v1/devices/{id}/commands', '/v1/devices/d/commands?wait=1', { body: { name: 'y', payload: 'AA==' } });
    await ask('POST /v1/devices/{id}/commands', '/v1/devices/d/commands', { body: { name: 'z', expires: { inSeconds: 1 } } });
    const device = { credential };
    await ask('POST /v1/device/telemetry', '/v1/device/telemetry', { ...device, body: { t: 1.5, s: 'x', b: true } });
    await ask('POST /v1/device/telemetry', '/v1/device/telemetry', { ...device, body: { ts: 5, values: { t: 1 } } });
    await ask('POST /v1/device/telemetry', '/v1/device/telemetry', { ...device, body: 'x' });
    await ask('GET /v1/device/commands', '/v1/device/commands', device);
    await ask('GET /v1/device/commands', '/v1/device/commands', device);
    await ask('GET /v1/device/commands', '/v1/device/commands?wait=5', device);
    const report = `/v1/device/commands/${String(issued['id'])}`;
    await ask('GET /v1/devices/{id}/commands', '/v1/devices/d/commands?state=open');
    await ask('POST /v1/device/commands/{id}', report, { ...device, body: { state: 'running', progress: 1, message: 'm' } });
    await ask('DELETE /v1/commands/{id}', `/v1/commands/${String(issued['id'])}`);
    await ask('POST /v1/device/commands/{id}', report, { ...device, body: { state: 'succeeded', result: { a: null } } });
    await ask('POST /v1/device/commands/{id}', report, { ...device, body: { state: 'failed' } });
    const sync = { telemetry: { temperature: 3 }, reports: [{ id: 'none', state: 'failed' }], confirms: [], limit: 1, sentAt: 5 };
    await ask('POST /v1/device/sync', '/v1/device/sync', { ...device, body: sync });
    await ask('POST /v1/device/sync', '/v1/device/sync', { ...device, body: { limit: 0 } });
    await ask('GET /v1/commands/{id}', `/v1/commands/${String(issued['id'])}`);
    await ask('GET /v1/commands/{id}', '/v1/commands/none');
    await ask('DELETE /v1/commands/{id}', `/v1/commands/${String(issued['id'])}`);
    await ask('GET /v1/devices/{id}/commands', '/v1/devices/d/commands?limit=1');

    await ask('GET /v1/devices/{id}/telemetry', '/v1/devices/d/telemetry?metric=t&limit=1');
    await ask('GET /v1/devices/{id}/telemetry', '/v1/devices/d/telemetry?metric=t');
    await ask('GET /v1/devices/{id}/telemetry', '/v1/devices/d/telemetry?metric=s&window=1h&fn=mean,last,count');
    await ask('GET /v1/devices/{id}/telemetry', '/v1/devices/d/telemetry');
    await ask('GET /v1/devices/{id}/telemetry/latest', '/v1/devices/d/telemetry/latest');
    await ask('GET /v1/devices/{id}/rejects', '/v1/devices/d/rejects');
    await ask('GET /v1/quarantine', '/v1/quarantine');
    await ask('GET /v1/devices/{id}', '/v1/devices/d');
    await ask('DELETE /v1/devices/{id}', '/v1/devices/d');
    await ask('GET /v1/devices/{id}', '/v1/devices/d');
  });

  test('on the way of a key, and of the server', async () => {
    const { key } = await ask('POST /v1/keys', '/v1/keys', { body: { name: 'n', role: 'viewer' } });
    await ask('GET /v1/keys', '/v1/keys?limit=1');
    const mqtt = { allow: [{ filter: 'devices/+/telemetry', subscribe: true }], deny: [] };
    const keyPath = `/v1/keys/${(key as { id: string }).id}`;
    await ask('PATCH /v1/keys/{id}', keyPath, { body: { expiresInSeconds: 60, mqtt } });
    await ask('PATCH /v1/keys/{id}', '/v1/keys/admin', { body: { role: 'viewer' } });
    await ask('PATCH /v1/keys/{id}', keyPath, { body: {} });
    await ask('GET /v1/keys', '/v1/keys');
    await ask('DELETE /v1/keys/{id}', `/v1/keys/${(key as { id: string }).id}`);
    await ask('DELETE /v1/keys/{id}', '/v1/keys/none');
    await ask('DELETE /v1/keys/{id}', '/v1/keys/admin');
    const fleet = { name: 'f', quota: 1, labels: { a: 'b' }, idPrefix: 'm', expiresInSeconds: 60, wake: { everySeconds: 60 } };
    const { secret, key: fleetKey } = await ask('POST /v1/fleet-keys', '/v1/fleet-keys', { body: fleet });
    const credential = String(secret);
    await ask('POST /v1/provision', '/v1/provision', { credential, body: { id: 'm1', name: 'M', labels: { c: 'd' } } });
    await ask('POST /v1/provision', '/v1/provision', { credential, body: { id: 'm1' } });
    await ask('POST /v1/provision', '/v1/provision', { credential, body: { id: 'm2' } });
    await ask('GET /v1/fleet-keys', '/v1/fleet-keys');
    await ask('DELETE /v1/fleet-keys/{id}', `/v1/fleet-keys/${(fleetKey as { id: string }).id}`);
    await ask('DELETE /v1/devices/{id}/token', '/v1/devices/m1/token');
    await ask('GET /v1/devices/{id}', '/v1/devices/m1');
    await ask('GET /v1/audit', '/v1/audit?limit=3');
    await ask('GET /v1/audit', '/v1/audit');
    await ask('GET /healthz', '/healthz');
    await ask('GET /readyz', '/readyz');
  });
});
