import { decode, encode } from 'cborg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem, nested } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

const START = Date.parse('2026-05-01T10:10:00Z');

type Pulled = { commands: Record<string, unknown>[]; more: boolean; cursor: string; sleep: Record<string, unknown> };

let clock: TestClock;
let server: LiveServer;
let token: string;

beforeAll(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
  token = await server.createDevice('label', { wake: { cron: '0 * * * *', slackSeconds: 0 } });
});

afterAll(() => server.close());

const pull = (query = '', credential = token) => server.request<Pulled>('GET', `/v1/device/commands${query}`, { credential });
const report = (id: string, body: unknown, headers: Record<string, string> = {}) =>
  server.request('POST', `/v1/device/commands/${id}`, { credential: token, body, headers });

describe('pulling', () => {
  test('answers what is queued, when to come again, and the same as Retry-After', async () => {
    const { id } = await server.issue('label', { name: 'show', params: { price: '1.99' }, expires: { inSeconds: 7_200 } });
    const { status, headers, body } = await pull();
    expect(status).toBe(200);
    expect(headers.get('retry-after')).toBe('3000');
    expect(body).toEqual({
      commands: [
        {
          id,
          name: 'show',
          params: { price: '1.99' },
          attempt: 1,
          issuedAt: '2026-05-01T10:10:00.000Z',
          expiresAt: '2026-05-01T12:10:00.000Z',
        },
      ],
      more: false,
      cursor: expect.stringMatching(/^[A-Za-z0-9_-]{32}$/),
      sleep: { untilSeconds: 3_000, wakeAt: '2026-05-01T11:00:00.000Z', reason: 'schedule' },
    });
  });

  test('answers 204 without a body, and with Retry-After, when nothing is queued', async () => {
    const { status, headers, body } = await pull();
    expect({ status, retryAfter: headers.get('retry-after'), body }).toEqual({ status: 204, retryAfter: '3000', body: {} });
    expect(headers.get('content-type')).toBeNull();
  });

  test('hands octets over as they were issued', async () => {
    const payload = Buffer.from(Array.from({ length: 256 }, (_, i) => 255 - i)).toString('base64');
    await server.issue('label', { name: 'image', payload, contentType: 'image/png' });
    const [command] = (await pull()).body.commands;
    expect(command).toMatchObject({ name: 'image', payload, contentType: 'image/png' });
    expect(command).not.toHaveProperty('params');
  });

  test.each([
    ['?limit=0', 'query.limit'],
    ['?limit=101', 'query.limit'],
    ['?limit=all', 'query.limit'],
    ['?wait=61', 'query.wait'],
    ['?wait=-1', 'query.wait'],
    ['?wait=1.5', 'query.wait'],
    ['?maxBytes=63', 'query.maxBytes'],
    ['?maxBytes=lots', 'query.maxBytes'],
    ['?wait=1&wait=2', 'query.wait'],
    ['?until=30', 'query.until'],
  ])('%s is refused, and nothing is leased', async (query, at) => {
    const { id } = await server.issue('label', { name: 'stay' });
    expectProblem(await pull(query), 'invalid_request', at);
    expect((await server.command(id)).state).toBe('queued');
    await server.request('DELETE', `/v1/commands/${id}`);
  });
});

describe('reporting', () => {
  test('answers the state that holds, and the same again', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    await pull();
    expect(await report(id, { state: 'running', progress: 50, message: 'half way' })).toMatchObject({
      status: 200,
      body: { id, state: 'running' },
    });
    for (let i = 0; i < 2; i += 1) {
      expect(await report(id, { state: 'succeeded', result: { shown: true } })).toMatchObject({
        status: 200,
        body: { id, state: 'succeeded' },
      });
    }
    expect(await server.request('GET', `/v1/commands/${id}`)).toMatchObject({
      body: {
        state: 'succeeded',
        progress: 50,
        message: 'half way',
        result: { shown: true },
        transport: 'http',
        finishedAt: expect.any(String),
      },
    });
  });

  test('many of the same at once are all fine', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    await pull();
    const answers = await Promise.all(Array.from({ length: 10 }, () => report(id, { state: 'succeeded' })));
    expect(answers.map(({ status, body }) => [status, body['state']])).toEqual(
      Array.from({ length: 10 }, () => [200, 'succeeded']),
    );
  });

  test('another end than the one it had is 409, and the end stands', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    await report(id, { state: 'succeeded' });
    expectProblem(await report(id, { state: 'failed' }), 'command_finished');
    expect((await server.command(id)).state).toBe('succeeded');
  });

  test('on a cancelled command is 409', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    await server.request('DELETE', `/v1/commands/${id}`);
    expectProblem(await report(id, { state: 'succeeded' }), 'command_finished');
  });

  test('on another device’s command, or on none, is 404 and changes nothing', async () => {
    await server.createDevice('foreign');
    const { id } = await server.issue('foreign', { name: 'show' });
    for (const other of [id, '019b76da-a800-7000-8000-000000000001', 'nonsense', '%00']) {
      expectProblem(await report(other, { state: 'succeeded' }), 'unknown_command');
    }
    expect((await server.command(id)).state).toBe('queued');
  });

  test('counts as a contact', async () => {
    const other = await server.createDevice('reporter', { wake: { cron: '0 * * * *' } });
    await server.request('POST', '/v1/device/commands/none', { credential: other, body: { state: 'failed' } });
    expect((await server.request('GET', '/v1/devices/reporter')).body).toMatchObject({ presence: { state: 'asleep' } });
  });

  test.each<[string, unknown, string, string | undefined]>([
    ['no state', {}, 'invalid_report', 'state'],
    ['a state that is none', { state: 'done' }, 'invalid_report', 'state'],
    ['a state that is not the device’s to say', { state: 'cancelled' }, 'invalid_report', 'state'],
    ['an unknown field', { state: 'failed', why: 'x' }, 'invalid_report', 'why'],
    ['a progress beyond the end', { state: 'running', progress: 101 }, 'invalid_report', 'progress'],
    ['a progress of another type', { state: 'running', progress: '50' }, 'invalid_report', 'progress'],
    ['a message too long', { state: 'failed', message: 'x'.repeat(1_025) }, 'invalid_report', 'message'],
    ['a result over 16 KiB', { state: 'failed', result: 'x'.repeat(16 * 1024) }, 'invalid_report', 'result'],
    ['an array', [], 'invalid_report', undefined],
    ['null', 'null', 'invalid_report', undefined],
    ['no JSON', '{"state"', 'invalid_json', undefined],
    ['nothing', '', 'invalid_json', undefined],
    ['no UTF-8', new Uint8Array([0x22, 0xff, 0x22]), 'invalid_json', undefined],
    ['nested too deeply', `{"state":"failed","result":${nested(33)}}`, 'invalid_json', undefined],
    ['over the limit', `{"state":"failed","result":"${'x'.repeat(129 * 1024)}"}`, 'body_too_large', undefined],
  ])('%s is refused, kept among the rejects, and changes nothing', async (_, body, code, at) => {
    const { id } = await server.issue('label', { name: 'show' });
    expectProblem(await report(id, body), code as 'invalid_json', at);
    expect((await server.command(id)).state).toBe('queued');
    expect((await server.request('GET', '/v1/devices/label/rejects')).body).toMatchObject({
      rejects: expect.arrayContaining([expect.objectContaining({ code, where: `/v1/device/commands/${id}` })]),
    });
    await server.request('DELETE', `/v1/commands/${id}`);
  });

  test('of another content type is refused', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    expectProblem(
      await report(id, '{"state":"failed"}', { 'content-type': 'text/plain' }),
      'unsupported_media_type',
      'Content-Type',
    );
    expect((await server.command(id)).state).toBe('queued');
  });

  test('in CBOR is taken as in JSON, octets in the result as base64, and answered as Accept says', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    const answerTo = async (body: unknown, headers: Record<string, string>): Promise<{ type: string | null; octets: Buffer }> => {
      const response = await fetch(`${server.url}/v1/device/commands/${id}`, {
        method: 'POST',
        body: encode(body),
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/cbor', ...headers },
      });
      return { type: response.headers.get('content-type'), octets: Buffer.from(await response.arrayBuffer()) };
    };
    const result = { image: Uint8Array.of(0, 255) };
    const inCbor = await answerTo({ state: 'succeeded', result }, {});
    expect(inCbor.type).toBe('application/cbor');
    expect(decode(inCbor.octets)).toEqual({ id, state: 'succeeded' });
    const inJson = await answerTo({ state: 'succeeded', result }, { accept: 'application/json' });
    expect(JSON.parse(inJson.octets.toString())).toEqual({ id, state: 'succeeded' });
    expect(await server.command(id)).toMatchObject({ state: 'succeeded', result: { image: 'AP8=' } });
  });

  test('an unknown parameter is refused', async () => {
    expectProblem(await report('none?force=true', { state: 'failed' }), 'invalid_request', 'query.force');
  });
});
