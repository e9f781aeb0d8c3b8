import { decode } from 'cborg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer, ADMIN_KEY } from './live-server.ts';

/** Readings for operators' programs that speak SenML (RFC 8428). */
let server: LiveServer;
let token: string;
const START = Date.now() - 60_000;

beforeAll(async () => {
  server = await LiveServer.start();
  token = await server.createDevice('meter-7');
  const body = [
    { ts: START, values: { temperature: 21.5, mode: 'eco' } },
    { ts: START + 1, values: { temperature: -3, ok: true } },
    { ts: START + 2, values: { temperature: 4 } },
  ];
  await server.request('POST', '/v1/device/telemetry', { credential: token, body });
});

afterAll(() => server.close());

async function get(path: string, accept: string): Promise<{ type: string | null; link: string | null; octets: Buffer }> {
  const response = await fetch(server.url + path, { headers: { authorization: `Bearer ${ADMIN_KEY}`, accept } });
  expect(response.status).toBe(200);
  return {
    type: response.headers.get('content-type'),
    link: response.headers.get('link'),
    octets: Buffer.from(await response.arrayBuffer()),
  };
}

const seconds = (ms: number): number => ms / 1_000;
const BN = 'urn:downlink:device:meter-7:';

describe('raw readings', () => {
  test('come as a pack in JSON, a page at a time with the next in Link', async () => {
    const first = await get('/v1/devices/meter-7/telemetry?metric=temperature&limit=2', 'application/senml+json');
    expect(first.type).toBe('application/senml+json');
    expect(JSON.parse(first.octets.toString())).toEqual([
      { bn: BN, n: 'temperature', t: seconds(START), v: 21.5 },
      { n: 'temperature', t: seconds(START + 1), v: -3 },
    ]);
    const next = /^<(.+)>; rel="next"$/.exec(first.link ?? '')?.[1];
    const second = await get(next ?? '', 'application/senml+json');
    expect(JSON.parse(second.octets.toString())).toEqual([{ bn: BN, n: 'temperature', t: seconds(START + 2), v: 4 }]);
    expect(second.link).toBeNull();
  });

  test('come in CBOR with the labels of RFC 8428, 6', async () => {
    const { type, octets } = await get('/v1/devices/meter-7/telemetry?metric=temperature&limit=1', 'application/senml+cbor');
    expect(type).toBe('application/senml+cbor');
    const [record] = decode(octets, { useMaps: true }) as Map<number, unknown>[];
    expect(record).toEqual(
      new Map<number, unknown>([
        [-2, BN],
        [0, 'temperature'],
        [2, 21.5],
        [6, seconds(START)],
      ]),
    );
  });

  test('of none are an empty array', async () => {
    const { octets } = await get('/v1/devices/meter-7/telemetry?metric=humidity', 'application/senml+json');
    expect(JSON.parse(octets.toString())).toEqual([]);
  });

  test('are JSON unless SenML is preferred, and so are aggregates', async () => {
    for (const [path, accept] of [
      ['metric=temperature', '*/*'],
      ['metric=temperature', 'application/senml+json;q=0.5, application/json'],
      ['metric=temperature&fn=mean', 'application/senml+json'],
    ] as const) {
      expect((await get(`/v1/devices/meter-7/telemetry?${path}`, accept)).type).toMatch(/^application\/json/);
    }
  });
});

test('the latest values come as a pack of all types', async () => {
  const { octets } = await get('/v1/devices/meter-7/telemetry/latest', 'application/senml+json');
  expect(JSON.parse(octets.toString())).toEqual([
    { bn: BN, n: 'mode', t: seconds(START), vs: 'eco' },
    { n: 'ok', t: seconds(START + 1), vb: true },
    { n: 'temperature', t: seconds(START + 2), v: 4 },
  ]);
});

test.each(['json', 'cbor'])('a pack in %s may be sent as telemetry: the same readings at the same times', async (form) => {
  const type = `application/senml+${form}`;
  const { octets } = await get('/v1/devices/meter-7/telemetry?metric=temperature', type);
  const id = `twin-${form}`;
  const credential = await server.createDevice(id);
  const sent = await server.request('POST', '/v1/device/telemetry', {
    credential,
    body: octets,
    headers: { 'content-type': type },
  });
  expect(sent).toMatchObject({ status: 202, body: { accepted: 3 } });
  const points = async (of: string): Promise<unknown> =>
    (await server.request('GET', `/v1/devices/${of}/telemetry?metric=temperature`)).body['points'];
  expect(await points(id)).toEqual(await points('meter-7'));
});

test('readings of before SenML has absolute times are refused in SenML', async () => {
  const credential = await server.createDevice('old', { limits: { tsBehindSeconds: 3_000_000_000 } });
  await server.request('POST', '/v1/device/telemetry', { credential, body: { ts: 5_000, values: { a: 1 } } });
  const answer = await server.request('GET', '/v1/devices/old/telemetry?metric=a', {
    headers: { accept: 'application/senml+json' },
  });
  expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_request', at: 'Accept' } });
});
