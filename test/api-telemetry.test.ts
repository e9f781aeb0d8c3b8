import { encode } from 'cborg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem, nested } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

const START = Date.parse('2026-05-01T10:00:00Z');
const HOUR = 3_600_000;

type Point = { time: string } & Record<string, unknown>;
type Readings = { device: string; metric: string; points: Point[]; cursor?: string };

let clock: TestClock;
let server: LiveServer;
let nth = 0;

beforeAll(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
});

afterAll(() => server.close());

async function newDevice(more: Record<string, unknown> = {}): Promise<{ id: string; token: string }> {
  nth += 1;
  const id = `sensor-${nth}`;
  return { id, token: await server.createDevice(id, more) };
}

const send = (token: string, body: unknown, contentType = 'application/json') =>
  server.request('POST', '/v1/device/telemetry', { credential: token, body, headers: { 'content-type': contentType } });
const read = (id: string, query: string) => server.request<Readings>('GET', `/v1/devices/${id}/telemetry?${query}`);

describe('what a device sends', () => {
  test('is answered 202 with the number of readings, and is there for whoever asks next', async () => {
    const { id, token } = await newDevice();
    expect(await send(token, { temperature: 21.5, ok: true, mode: 'eco' })).toMatchObject({ status: 202, body: { accepted: 3 } });
    expect(await send(token, [{ temperature: 22 }, { ts: START - HOUR, values: { temperature: 20 } }])).toMatchObject({
      body: { accepted: 2 },
    });
    const { status, body } = await read(id, 'metric=temperature');
    expect(status).toBe(200);
    expect(body).toEqual({
      device: id,
      metric: 'temperature',
      points: [
        { time: '2026-05-01T09:00:00.000Z', value: 20 },
        { time: '2026-05-01T10:00:00.000Z', value: 21.5 },
        { time: '2026-05-01T10:00:00.000001Z', value: 22 },
      ],
    });
    expect((await read(id, 'metric=mode')).body.points).toEqual([{ time: '2026-05-01T10:00:00.000Z', value: 'eco' }]);
    expect((await read(id, 'metric=ok')).body.points[0]?.['value']).toBe(true);
    expect((await read(id, 'metric=never')).body.points).toEqual([]);
  });

  test('is the same reading when it comes again with its ts', async () => {
    const { id, token } = await newDevice();
    for (let i = 0; i < 3; i += 1) await send(token, { ts: START, values: { level: 7 } });
    expect((await read(id, 'metric=level')).body.points).toEqual([{ time: '2026-05-01T10:00:00.000Z', value: 7 }]);
  });

  test('has the server’s time, and its own beside it, where its own is out of bounds', async () => {
    const { id, token } = await newDevice();
    const given = START - 60 * 24 * HOUR;
    await send(token, { ts: given, values: { level: 7 } });
    const point = { time: '2026-05-01T10:00:00.000Z', value: 7, givenTs: given };
    expect((await read(id, 'metric=level')).body.points).toEqual([point]);
    expect((await server.request('GET', `/v1/devices/${id}/telemetry/latest`)).body).toEqual({
      device: id,
      metrics: { level: point },
    });
  });

  test('counts as a contact', async () => {
    const { id, token } = await newDevice({ wake: { everySeconds: 60 } });
    await send(token, { a: 1 });
    expect((await server.request('GET', `/v1/devices/${id}`)).body).toMatchObject({
      presence: { state: 'asleep', lastContactAt: '2026-05-01T10:00:00.000Z' },
    });
  });

  test('begins the wake that a poll after it goes on with', async () => {
    const { id, token } = await newDevice({ wake: { everySeconds: 3_600 } });
    const { id: commandId } = await server.issue(id, { name: 'x', expires: { wakes: 1 } });
    const wake = async (): Promise<void> => {
      clock.advance(1_000);
      await send(token, { battery: 3 });
      await server.request('GET', '/v1/device/commands', { credential: token });
    };
    await wake();
    expect(await server.command(commandId)).toMatchObject({ state: 'sent', wakes: 1 });
    clock.advance(31_000);
    await server.commandIn(commandId, 'queued');
    clock.advance(HOUR);
    await wake();
    expect(await server.command(commandId)).toMatchObject({ state: 'expired', error: 'not delivered within 1 wakes' });
  });

  test.each<[string, unknown]>([
    ['application/json; charset=utf-8', { a: 1.5, b: 'x' }],
    ['application/cbor', encode({ a: 1.5, b: 'x' })],
    [
      'application/senml+json',
      [
        { n: 'a', u: 'Cel', v: 1.5 },
        { n: 'b', vs: 'x' },
      ],
    ],
    [
      'application/senml+cbor',
      encode([
        new Map<number, unknown>([
          [0, 'a'],
          [2, 1.5],
        ]),
        new Map<number, unknown>([
          [0, 'b'],
          [3, 'x'],
        ]),
      ]),
    ],
  ])('is read as %s', async (contentType, body) => {
    const { id, token } = await newDevice();
    expect(await send(token, body, contentType)).toMatchObject({ status: 202, body: { accepted: 2 } });
    const { metrics } = (await server.request<{ metrics: Record<string, Point> }>('GET', `/v1/devices/${id}/telemetry/latest`))
      .body;
    expect(metrics['a']?.['value']).toBe(1.5);
    expect(metrics['b']?.['value']).toBe('x');
  });

  test('is JSON when it does not say what it is', async () => {
    const { token } = await newDevice();
    const body = new Blob(['{"a":1}']);
    const { status } = await fetch(`${server.url}/v1/device/telemetry`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}` },
      body,
    });
    expect(status).toBe(202);
  });
});

describe('what breaks a rule', () => {
  const cases: [string, unknown, string, string, string | undefined][] = [
    ['no JSON', '{"a":', 'application/json', 'invalid_json', undefined],
    ['nothing', '', 'application/json', 'invalid_json', undefined],
    ['no UTF-8', new Uint8Array([0x7b, 0x22, 0xff]), 'application/json', 'invalid_json', undefined],
    ['nested too deeply', nested(33), 'application/json', 'invalid_json', undefined],
    ['nested so deeply that parsers give up', nested(100_000), 'application/json', 'invalid_json', undefined],
    ['a number', 7, 'application/json', 'invalid_telemetry', undefined],
    ['an empty sample', {}, 'application/json', 'invalid_telemetry', undefined],
    ['an object as a value', { a: { b: 1 } }, 'application/json', 'invalid_telemetry', 'a'],
    ['a name out of form', { 'a b': 1 }, 'application/json', 'invalid_telemetry', 'a b'],
    ['a number beyond all', '{"a":1e400}', 'application/json', 'invalid_telemetry', 'a'],
    [
      'a bad sample among good ones',
      [{ a: 1 }, { ts: 'now', values: { a: 1 } }],
      'application/json',
      'invalid_telemetry',
      '[1].ts',
    ],
    ['too many readings', Array.from({ length: 1_001 }, () => ({ a: 1 })), 'application/json', 'invalid_telemetry', '[1000]'],
    [
      'too many metrics',
      Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`m${i}`, 1])),
      'application/json',
      'invalid_telemetry',
      undefined,
    ],
    ['a string too long', { a: 'x'.repeat(1_025) }, 'application/json', 'invalid_telemetry', 'a'],
    ['CBOR cut short', encode({ a: 1.5 }).slice(0, 4), 'application/cbor', 'invalid_json', undefined],
    [
      'CBOR with a key twice',
      new Uint8Array([0xa2, 0x61, 0x61, 1, 0x61, 0x61, 2]),
      'application/cbor',
      'invalid_json',
      undefined,
    ],
    ['CBOR nested too deeply', new Uint8Array(200_000).fill(0x81), 'application/cbor', 'invalid_json', undefined],
    [
      'CBOR with an endless claim',
      new Uint8Array([0x9b, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
      'application/cbor',
      'invalid_json',
      undefined,
    ],
    ['CBOR with octets as a value', encode({ a: new Uint8Array([1]) }), 'application/cbor', 'invalid_telemetry', 'a'],
    ['SenML that is no pack', { n: 'a', v: 1 }, 'application/senml+json', 'invalid_telemetry', undefined],
    ['SenML without a value', [{ n: 'a', v: 1 }, { n: 'b' }], 'application/senml+json', 'invalid_telemetry', '[1]'],
    ['a form', 'a=1', 'application/x-www-form-urlencoded', 'unsupported_media_type', 'Content-Type'],
    ['text', 'a', 'text/plain', 'unsupported_media_type', 'Content-Type'],
  ];

  test.each(cases)(
    '%s is refused, kept among the rejects, counted, and nothing of it is stored',
    async (_, body, contentType, code, at) => {
      const { id, token } = await newDevice();
      const counted = await rejectCount(code);
      const answer = await send(token, body, contentType);
      expectProblem(answer, code as 'invalid_json', at);
      const { rejects } = (await server.request<{ rejects: Record<string, string>[] }>('GET', `/v1/devices/${id}/rejects`)).body;
      expect(rejects).toEqual([
        {
          time: new Date(clock.now()).toISOString(),
          transport: 'http',
          where: '/v1/device/telemetry',
          code,
          message: answer.body['detail'],
          excerpt: expect.any(String),
        },
      ]);
      expect(await rejectCount(code)).toBe(counted + 1);
      expect((await server.request('GET', `/v1/devices/${id}/telemetry/latest`)).body).toEqual({ device: id, metrics: {} });
    },
  );

  test('a body over 256 KiB is refused and kept without what was not read', async () => {
    const { id, token } = await newDevice();
    const body = `{"a":"${'x'.repeat(256 * 1024)}"}`;
    expectProblem(await send(token, body), 'body_too_large');
    expect((await server.request('GET', `/v1/devices/${id}/rejects`)).body).toMatchObject({
      rejects: [{ code: 'body_too_large', excerpt: '' }],
    });
  });

  test('rejects are newest first, with the beginning of what came', async () => {
    const { id, token } = await newDevice();
    for (const body of ['first', `second ${'x'.repeat(500)}`]) await send(token, body);
    const { rejects } = (await server.request<{ rejects: { excerpt: string }[] }>('GET', `/v1/devices/${id}/rejects`)).body;
    expect(rejects.map(({ excerpt }) => excerpt)).toEqual([`second ${'x'.repeat(249)}`, 'first']);
    expectProblem(await server.request('GET', '/v1/devices/nobody/rejects'), 'unknown_device');
  });

  async function rejectCount(code: string): Promise<number> {
    const text = await (await fetch(`${server.url}/metrics`)).text();
    const line = text
      .split('\n')
      .find((one) => one.startsWith('downlink_rejects_total') && one.includes('"http"') && one.includes(`"${code}"`));
    return Number(line?.split(' ')[1] ?? 0);
  }
});

describe('reading', () => {
  let id: string;
  const at = (minutes: number): number => START - 6 * HOUR + minutes * 60_000;
  const iso = (minutes: number): string => new Date(at(minutes)).toISOString();

  beforeAll(async () => {
    const device = await newDevice();
    ({ id } = device);
    const samples = Array.from({ length: 120 }, (_, i) => ({ ts: at(i), values: { n: i, even: i % 2 === 0 } }));
    await send(device.token, samples);
  });

  test('goes page by page, each reading once, oldest first', async () => {
    const values: unknown[] = [];
    const pages: number[] = [];
    let cursor: string | undefined;
    do {
      const { body } = await read(id, `metric=n&limit=50${cursor === undefined ? '' : `&cursor=${cursor}`}`);
      values.push(...body.points.map(({ value }) => value));
      pages.push(body.points.length);
      cursor = body.cursor;
    } while (cursor !== undefined);
    expect(values).toEqual(Array.from({ length: 120 }, (_, i) => i));
    expect(pages).toEqual([50, 50, 20]);
    expect((await read(id, 'metric=n&limit=120')).body).not.toHaveProperty('cursor');
  });

  test('takes from and to as RFC 3339 or epoch milliseconds, from included and to not', async () => {
    const values = async (query: string) => (await read(id, `metric=n&${query}`)).body.points.map(({ value }) => value);
    expect(await values(`from=${iso(10)}&to=${iso(13)}`)).toEqual([10, 11, 12]);
    expect(await values(`from=${at(10)}&to=${at(12)}`)).toEqual([10, 11]);
    expect(await values(`from=${encodeURIComponent('2026-05-01T06:10:00+02:00')}&to=${iso(12)}`)).toEqual([10, 11]);
    expect(await values(`from=${iso(118).replace('.000Z', '.000000001Z')}`)).toEqual([119]);
    expect(await values('from=2030-01-01&to=9999-12-31')).toEqual([]);
  });

  test('gives windows with what is asked for, page by page', async () => {
    const query = `metric=n&window=30m&fn=mean,min,max,count,last&from=${iso(0)}&limit=3`;
    const { body } = await read(id, query);
    expect(body.points).toEqual([
      { time: iso(0), mean: 14.5, min: 0, max: 29, count: 30, last: 29 },
      { time: iso(30), mean: 44.5, min: 30, max: 59, count: 30, last: 59 },
      { time: iso(60), mean: 74.5, min: 60, max: 89, count: 30, last: 89 },
    ]);
    const next = await read(id, `${query}&cursor=${body.cursor}`);
    expect(next.body.points).toEqual([{ time: iso(90), mean: 104.5, min: 90, max: 119, count: 30, last: 119 }]);
    expect(next.body).not.toHaveProperty('cursor');
  });

  test('gives mean, min, max and count for a window alone, and leaves empty windows out', async () => {
    const { body } = await read(id, 'metric=n&window=1d');
    expect(body.points).toEqual([{ time: '2026-05-01T00:00:00.000Z', mean: 59.5, min: 0, max: 119, count: 120 }]);
    expect((await read(id, 'metric=n&window=7200')).body.points).toHaveLength(1);
  });

  test('gives one point over the whole range for a function alone', async () => {
    expect((await read(id, `metric=n&fn=max&fn=count&from=${iso(60)}`)).body.points).toEqual([
      { time: iso(60), max: 119, count: 60 },
    ]);
    expect((await read(id, 'metric=n&fn=count')).body.points).toEqual([{ time: '1970-01-01T00:00:00.000Z', count: 120 }]);
    expect((await read(id, 'metric=nothing&fn=count')).body.points).toEqual([]);
  });

  test('gives null for what values have none of', async () => {
    expect((await read(id, 'metric=even&fn=mean,count,last')).body.points).toEqual([
      { time: '1970-01-01T00:00:00.000Z', mean: null, count: 120, last: false },
    ]);
  });

  test.each([
    ['', 'query.metric'],
    ['metric=', 'query.metric'],
    ['metric=a%20b', 'query.metric'],
    ['metric=n&metric=m', 'query.metric'],
    [`metric=${'x'.repeat(65)}`, 'query.metric'],
    ['metric=n&from=noon', 'query.from'],
    ['metric=n&from=2026-05-02&to=2026-05-01', 'query.to'],
    ['metric=n&from=2026-05-01&to=2026-05-01', 'query.to'],
    ['metric=n&window=0', 'query.window'],
    ['metric=n&window=5y', 'query.window'],
    ['metric=n&window=-1h', 'query.window'],
    ['metric=n&window=9999999999w', 'query.window'],
    ['metric=n&fn=median', 'query.fn'],
    ['metric=n&fn=', 'query.fn'],
    ['metric=n&fn=mean,,max', 'query.fn'],
    ['metric=n&limit=10001', 'query.limit'],
    ['metric=n&limit=0', 'query.limit'],
    ['metric=n&step=5', 'query.step'],
  ])('%s is refused', async (query, place) => {
    expectProblem(await read(id, query), 'invalid_request', place);
  });

  test('a cursor of another list, and a device that is not there, are refused', async () => {
    expectProblem(
      await read(id, `metric=n&cursor=${Buffer.from('commands:1').toString('base64url')}`),
      'invalid_cursor',
      'query.cursor',
    );
    expectProblem(await read('nobody', 'metric=n'), 'unknown_device');
    expectProblem(await server.request('GET', '/v1/devices/nobody/telemetry/latest'), 'unknown_device');
    expectProblem(await server.request('GET', `/v1/devices/${id}/telemetry/latest?metric=n`), 'invalid_request', 'query.metric');
  });

  test('the latest readings are there after a restart too', async () => {
    await server.restart();
    const { body } = await server.request('GET', `/v1/devices/${id}/telemetry/latest`);
    expect(body).toEqual({ device: id, metrics: { n: { time: iso(119), value: 119 }, even: { time: iso(119), value: false } } });
  });
});

test('quarantine is an empty list while History takes all rows', async () => {
  expect((await server.request('GET', '/v1/quarantine')).body).toEqual({ rows: [] });
  expectProblem(await server.request('GET', '/v1/quarantine?limit=0'), 'invalid_request', 'query.limit');
  expectProblem(await server.request('GET', '/v1/quarantine?cursor=x'), 'invalid_cursor', 'query.cursor');
});
