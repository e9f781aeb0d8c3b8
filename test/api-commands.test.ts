import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually, expectProblem, nested } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

const START = Date.parse('2026-05-01T10:10:00Z');
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

type View = Record<string, unknown> & { id: string; state: string };
type Page = { commands: View[]; cursor?: string; partial?: boolean };

let clock: TestClock;
let server: LiveServer;
let token: string;

beforeAll(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
  token = await server.createDevice('pump');
  await server.createDevice('meter', { wake: { cron: '0 * * * *' } });
});

afterAll(() => server.close());

const issue = (body: unknown, path = '', headers: Record<string, string> = {}, device = 'pump') =>
  server.request<View>('POST', `/v1/devices/${device}/commands${path}`, { body, headers });

describe('issuing', () => {
  test('answers 201 with the whole command, and where it is', async () => {
    const { status, headers, body } = await issue(
      {
        name: 'set_interval',
        params: { seconds: 900, deep: [{ a: null }] },
        priority: 'high',
        key: 'interval',
        notBefore: '2026-05-01T12:30:00+02:00',
        expires: { at: START + 7_200_000 },
        reportTimeoutSeconds: 60,
        maxAttempts: 3,
      },
      '',
      {},
      'meter',
    );
    expect(status).toBe(201);
    expect(headers.get('location')).toBe(`/v1/commands/${body.id}`);
    expect(headers.get('idempotency-replayed')).toBeNull();
    expect(body).toEqual({
      id: expect.stringMatching(UUID_V7),
      deviceId: 'meter',
      name: 'set_interval',
      params: { seconds: 900, deep: [{ a: null }] },
      priority: 'high',
      key: 'interval',
      confirm: 'result',
      notBefore: '2026-05-01T10:30:00.000Z',
      expiresAt: '2026-05-01T12:10:00.000Z',
      reportTimeoutSeconds: 60,
      maxAttempts: 3,
      state: 'queued',
      attempts: 0,
      wakes: 0,
      queuedAt: '2026-05-01T10:10:00.000Z',
      forecast: { nextWakeAt: '2026-05-01T11:00:00.000Z', expectedAt: '2026-05-01T11:00:00.000Z', wakesBeforeExpiry: 2 },
    });
    expect((await server.request('GET', `/v1/commands/${body.id}`)).body).toEqual(body);
  });

  test.each([[{ a: 1 }], [[1, 'two', null]], ['text'], [0], [false], [null]])(
    'takes %j as params and gives it back unharmed',
    async (params) => {
      const { body } = await issue({ name: 'any', params });
      expect(body['params']).toEqual(params);
      expect((await server.request<View>('GET', `/v1/commands/${body.id}`)).body['params']).toEqual(params);
    },
  );

  test('octets come back as they were', async () => {
    const payload = Buffer.from(Array.from({ length: 256 }, (_, i) => i)).toString('base64');
    expect((await issue({ name: 'blob', payload, contentType: 'image/png' })).body).toMatchObject({
      payload,
      contentType: 'image/png',
    });
    expect((await issue({ name: 'blob', payload: '' })).body).toMatchObject({
      payload: '',
      contentType: 'application/octet-stream',
    });
  });

  test('an expiry by wakes is told as such', async () => {
    const { body } = await issue({ name: 'w', expires: { wakes: 3 } }, '', {}, 'meter');
    expect(body).toMatchObject({ expiresWakes: 3, wakes: 0, expiresAt: '2026-05-01T13:01:00.000Z' });
  });

  test('what would expire before the device next wakes is refused, unless forced', async () => {
    const body = { name: 'soon', expires: { inSeconds: 60 } };
    expectProblem(await issue(body, '', {}, 'meter'), 'expires_before_next_wake', 'expires');
    expect((await issue({ ...body, force: true }, '', {}, 'meter')).status).toBe(201);
  });

  test.each<[string, unknown, string | undefined]>([
    ['no name', {}, 'name'],
    ['a name out of form', { name: 'set interval' }, 'name'],
    ['a name too long', { name: 'x'.repeat(65) }, 'name'],
    ['an unknown field', { name: 'x', ttl: 5 }, 'ttl'],
    ['a priority that is none', { name: 'x', priority: 'asap' }, 'priority'],
    ['a confirmation that is none', { name: 'x', confirm: 'maybe' }, 'confirm'],
    ['an empty key', { name: 'x', key: '' }, 'key'],
    ['a key too long', { name: 'x', key: 'k'.repeat(129) }, 'key'],
    ['params over 32 KiB', { name: 'x', params: 'p'.repeat(32 * 1024) }, 'params'],
    ['a payload over 32 KiB', { name: 'x', payload: Buffer.alloc(32 * 1024 + 1).toString('base64') }, 'payload'],
    ['a payload that is no base64', { name: 'x', payload: '%%%' }, 'payload'],
    ['a payload beside params', { name: 'x', payload: 'AA==', params: {} }, 'payload'],
    ['a content type without a payload', { name: 'x', contentType: 'text/plain' }, 'contentType'],
    ['a content type with a line break', { name: 'x', payload: 'AA==', contentType: 'a\nb' }, 'contentType'],
    ['an expiry of two kinds', { name: 'x', expires: { inSeconds: 5, wakes: 1 } }, 'expires'],
    ['an expiry of no kind', { name: 'x', expires: {} }, 'expires'],
    ['an expiry that has passed', { name: 'x', expires: { at: START - 1 } }, 'expires'],
    ['an expiry before it may go out', { name: 'x', notBefore: START + 60_000, expires: { inSeconds: 30 } }, 'expires'],
    ['an expiry in no time at all', { name: 'x', expires: { inSeconds: 0 } }, 'expires.inSeconds'],
    ['too many wakes', { name: 'x', expires: { wakes: 1_001 } }, 'expires.wakes'],
    ['a time that is none', { name: 'x', notBefore: 'tomorrow' }, 'notBefore'],
    ['a day that is none', { name: 'x', notBefore: '2026-02-30T05:00:00Z' }, 'notBefore'],
    ['a time without a zone', { name: 'x', notBefore: '2026-06-01T00:00:00' }, 'notBefore'],
    ['a time beyond all calendars', { name: 'x', notBefore: 1e15 - 1 }, 'notBefore'],
    ['a time of another type', { name: 'x', notBefore: true }, 'notBefore'],
    ['a report timeout of a week and more', { name: 'x', reportTimeoutSeconds: 604_801 }, 'reportTimeoutSeconds'],
    ['no attempts', { name: 'x', maxAttempts: 0 }, 'maxAttempts'],
    ['too many attempts', { name: 'x', maxAttempts: 101 }, 'maxAttempts'],
    ['a condition that is no object', { name: 'x', condition: 'level < 80' }, 'condition'],
    ['a condition without a metric', { name: 'x', condition: { op: '<', value: 80 } }, 'condition.metric'],
    ['a condition on no metric name', { name: 'x', condition: { metric: '9 lives', op: '<', value: 80 } }, 'condition.metric'],
    ['a condition with no op', { name: 'x', condition: { metric: 'level', value: 80 } }, 'condition.op'],
    ['a condition with an op that is none', { name: 'x', condition: { metric: 'level', op: '=<', value: 80 } }, 'condition.op'],
    ['a condition without a value', { name: 'x', condition: { metric: 'level', op: '<' } }, 'condition.value'],
    ['a condition on an object', { name: 'x', condition: { metric: 'level', op: '=', value: {} } }, 'condition.value'],
    ['a condition on null', { name: 'x', condition: { metric: 'level', op: '=', value: null } }, 'condition.value'],
    ['a condition that orders strings', { name: 'x', condition: { metric: 'mode', op: '<', value: 'eco' } }, 'condition.op'],
    ['a condition that orders booleans', { name: 'x', condition: { metric: 'ok', op: '>=', value: true } }, 'condition.op'],
    [
      'a condition on a string that no reading is as long as',
      { name: 'x', condition: { metric: 'mode', op: '=', value: 'é'.repeat(513) } },
      'condition.value',
    ],
    [
      'a condition on readings of no age at all',
      { name: 'x', condition: { metric: 'level', op: '<', value: 80, maxAgeSeconds: 0 } },
      'condition.maxAgeSeconds',
    ],
    [
      'a condition with a field that is none',
      { name: 'x', condition: { metric: 'level', op: '<', value: 80, since: 5 } },
      'condition.since',
    ],
    ['a string for a boolean', { name: 'x', force: 'true' }, 'force'],
    ['a list of commands', [{ name: 'x' }], undefined],
    ['nothing', '', undefined],
  ])('%s is refused with its place, and nothing is issued', async (_, body, at) => {
    const before = (await server.request<View>('GET', '/v1/devices/pump')).body['openCommands'];
    expectProblem(await issue(body), 'invalid_request', at);
    expect((await server.request<View>('GET', '/v1/devices/pump')).body['openCommands']).toBe(before);
  });

  test.each<[string, string | Uint8Array]>([
    ['not JSON', '{"name":'],
    ['nested too deeply', `{"name":"x","params":${nested(40)}}`],
    ['nested so deeply that parsers give up', nested(60_000)],
    ['not UTF-8', new Uint8Array([0x22, 0xff, 0x22])],
  ])('a body that is %s is refused', async (_, body) => {
    expectProblem(await issue(body), 'invalid_json');
  });

  test('a body over the limit, or of another type, is refused', async () => {
    expectProblem(await issue(`{"name":"x","params":"${'p'.repeat(129 * 1024)}"}`), 'body_too_large');
    expectProblem(
      await issue('name=x', '', { 'content-type': 'application/x-www-form-urlencoded' }),
      'unsupported_media_type',
      'Content-Type',
    );
    expectProblem(await issue('{"name":"x"}', '', { 'content-type': ';' }), 'unsupported_media_type', 'Content-Type');
  });

  test('a device that is not there is 404', async () => {
    expectProblem(await issue({ name: 'x' }, '', {}, 'nobody'), 'unknown_device');
  });
});

describe('issuing once', () => {
  test('the same Idempotency-Key and request give the same command as it then is, and say so', async () => {
    const headers = { 'idempotency-key': 'once-1' };
    const first = await issue({ name: 'once', params: { a: 1, b: 2 } }, '', headers);
    await server.request('DELETE', `/v1/commands/${first.body.id}`);
    const again = await issue({ params: { b: 2, a: 1 }, name: 'once' }, '', headers);
    expect(again.status).toBe(201);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(again.body).toMatchObject({ id: first.body.id, state: 'cancelled' });
  });

  test('many at once issue one', async () => {
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => issue({ name: 'once' }, '', { 'idempotency-key': 'once-2' })),
    );
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
    expect(answers.filter(({ headers }) => headers.get('idempotency-replayed') === null)).toHaveLength(1);
  });

  test('another request with the same key is 409; the same key for another device is another', async () => {
    const headers = { 'idempotency-key': 'once-3' };
    await issue({ name: 'once' }, '', headers);
    expectProblem(await issue({ name: 'twice' }, '', headers), 'idempotency_conflict', 'Idempotency-Key');
    expect((await issue({ name: 'twice' }, '', headers, 'meter')).status).toBe(201);
  });

  test('a refused request does not use its key up', async () => {
    const headers = { 'idempotency-key': 'once-4' };
    expectProblem(
      await issue({ name: 'soon', expires: { inSeconds: 5 } }, '', headers, 'meter'),
      'expires_before_next_wake',
      'expires',
    );
    expect((await issue({ name: 'later' }, '', headers, 'meter')).status).toBe(201);
  });

  test.each(['', 'a b', 'x'.repeat(256), 'é'])('the key "%s" is refused', async (key) => {
    expectProblem(await issue({ name: 'x' }, '', { 'idempotency-key': key }), 'invalid_request', 'idempotency-key');
  });
});

describe('waiting for the outcome', () => {
  test('answers 201 with the ended command as soon as it has ended', async () => {
    const device = await server.createDevice('waited');
    const waiting = issue({ name: 'measure' }, '?wait=60', {}, 'waited');
    const { id } = await eventually(async () => {
      const { body } = await server.request<{ commands?: { id: string }[] }>('GET', '/v1/device/commands', {
        credential: device,
      });
      return body.commands?.[0];
    });
    await server.request('POST', `/v1/device/commands/${id}`, { credential: device, body: { state: 'failed', message: 'dry' } });
    const { status, body } = await waiting;
    expect(status).toBe(201);
    expect(body).toMatchObject({ id, state: 'failed', message: 'dry', transport: 'http', attempts: 1 });
  });

  test('answers 202 with the open command when the time is over', async () => {
    const { status, body } = await issue({ name: 'slow' }, '?wait=1');
    expect(status).toBe(202);
    expect(body.state).toBe('queued');
  });

  test('the command stands when the one who waits goes away', async () => {
    const device = await server.createDevice('left');
    const gone = new AbortController();
    const waiting = fetch(`${server.url}/v1/devices/left/commands?wait=60`, {
      method: 'POST',
      headers: { authorization: 'Bearer test-admin-key-0123456789', 'content-type': 'application/json' },
      body: '{"name":"stay"}',
      signal: gone.signal,
    });
    await eventually(async () =>
      (await server.request<View>('GET', '/v1/devices/left')).body['openCommands'] === 1 ? true : undefined,
    );
    gone.abort();
    await expect(waiting).rejects.toThrow(/abort/);
    expect((await server.request('GET', '/v1/device/commands', { credential: device })).body).toMatchObject({
      commands: [{ name: 'stay' }],
    });
  });

  test.each(['-1', '61', '1.5', 'long', ''])('wait=%s is refused', async (wait) => {
    expectProblem(await issue({ name: 'x' }, `?wait=${wait}`), 'invalid_request', 'query.wait');
  });
});

describe('listing and showing', () => {
  const list = (query = '', device = 'listed') => server.request<Page>('GET', `/v1/devices/${device}/commands?${query}`);
  const ids: string[] = [];

  beforeAll(async () => {
    await server.createDevice('listed');
    for (let i = 0; i < 10; i += 1) {
      ids.push((await server.issue('listed', { name: `c${i}` })).id);
      clock.advance(60_000);
    }
    for (const id of ids.slice(0, 3)) await server.request('DELETE', `/v1/commands/${id}`);
  });

  test('is newest first, page by page, with a cursor only while there is more', async () => {
    const found: string[] = [];
    let cursor: string | undefined;
    do {
      const { body } = await list(`limit=4${cursor === undefined ? '' : `&cursor=${cursor}`}`);
      found.push(...body.commands.map(({ id }) => id));
      cursor = body.cursor;
    } while (cursor !== undefined);
    expect(found).toEqual(ids.toReversed());
    expect((await list('limit=10')).body).not.toHaveProperty('cursor');
    expect((await list()).body).not.toHaveProperty('partial');
  });

  test('filters by state, by open, and by the time of issue', async () => {
    const named = async (query: string) => (await list(query)).body.commands.map(({ name }) => name);
    expect(await named('state=cancelled')).toEqual(['c2', 'c1', 'c0']);
    expect(await named('state=open')).toHaveLength(7);
    expect(await named('state=open&state=cancelled')).toHaveLength(10);
    expect(await named('state=failed')).toEqual([]);
    const first = (await server.command(ids[4] ?? '')) as unknown as { queuedAt: string };
    expect(await named(`from=${first.queuedAt}`)).toEqual(['c9', 'c8', 'c7', 'c6', 'c5', 'c4']);
    expect(await named(`from=${Date.parse(first.queuedAt)}&to=${Date.parse(first.queuedAt) + 120_000}`)).toEqual(['c5', 'c4']);
    expect(await named('from=2027-01-01')).toEqual([]);
  });

  test.each([
    ['state=done', 'query.state[0]'],
    ['from=yesterday', 'query.from'],
    ['to=-5', 'query.to'],
    ['limit=1001', 'query.limit'],
    ['device=x', 'query.device'],
  ])('%s is refused', async (query, at) => {
    expectProblem(await list(query), 'invalid_request', at);
  });

  test('a cursor of another list is refused', async () => {
    expectProblem(await list(`cursor=${Buffer.from('readings:1').toString('base64url')}`), 'invalid_cursor', 'query.cursor');
  });

  test('commands of nobody are 404', async () => {
    expectProblem(await list('', 'nobody'), 'unknown_device');
    for (const id of ['019b76da-a800-7000-8000-000000000001', 'nonsense', '%00', 'x'.repeat(64)]) {
      expectProblem(await server.request('GET', `/v1/commands/${id}`), 'unknown_command');
      expectProblem(await server.request('DELETE', `/v1/commands/${id}`), 'unknown_command');
    }
  });

  test('a list of a thousand queued commands for a sleeper on a minute’s schedule is made with their forecasts', async () => {
    await server.createDevice('often', { wake: { cron: '* * * * *' } });
    await Promise.all(Array.from({ length: 1_000 }, () => server.issue('often', { name: 'x' })));
    const { body } = await list('limit=1000', 'often');
    expect(body.commands).toHaveLength(1_000);
    expect(body.commands.every(({ forecast }) => (forecast as { wakesBeforeExpiry: number }).wakesBeforeExpiry === 100)).toBe(
      true,
    );
  });
});

describe('cancelling', () => {
  test('is answered with the command; twice is fine', async () => {
    const { id } = await server.issue('pump', { name: 'x' });
    for (let i = 0; i < 2; i += 1) {
      const { status, body } = await server.request<View>('DELETE', `/v1/commands/${id}`);
      expect(status).toBe(200);
      expect(body).toMatchObject({ id, state: 'cancelled' });
      expect(body).not.toHaveProperty('forecast');
    }
  });

  test('what has ended otherwise is 409, forced or not', async () => {
    const { id } = await server.issue('pump', { name: 'x' });
    await server.request('POST', `/v1/device/commands/${id}`, { credential: token, body: { state: 'succeeded' } });
    expectProblem(await server.request('DELETE', `/v1/commands/${id}?force=true`), 'command_finished');
  });

  test('what is at work is 409 without force', async () => {
    const { id } = await server.issue('pump', { name: 'x' });
    await server.request('POST', `/v1/device/commands/${id}`, { credential: token, body: { state: 'running' } });
    expectProblem(await server.request('DELETE', `/v1/commands/${id}`), 'command_delivered');
    expect((await server.request<View>('DELETE', `/v1/commands/${id}?force=true`)).body.state).toBe('cancelled');
  });

  test('force is true or false, and a body is not where it goes', async () => {
    const { id } = await server.issue('pump', { name: 'x' });
    expectProblem(await server.request('DELETE', `/v1/commands/${id}?force=yes`), 'invalid_request', 'query.force');
    expectProblem(await server.request('DELETE', `/v1/commands/${id}`, { body: { force: true } }), 'invalid_request');
    expect((await server.command(id)).state).toBe('queued');
  });
});
