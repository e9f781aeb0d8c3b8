import { decode } from 'cborg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';

/** The one-trip wake, over real HTTP. */
const START = Date.parse('2026-05-01T10:10:00Z');
const UNKNOWN = '019b76da-a800-7000-8000-000000000001';

type Synced = {
  time: string;
  commands: { id: string; name: string; attempt: number; payload?: string }[];
  more: boolean;
  cursor: string;
  sleep: { untilSeconds: number; wakeAt: string; reason: string };
  refused?: { at: string; id: string; code: string; message: string }[];
};
type Points = { points: { time: string; value: unknown; givenTs?: number }[] };

let clock: TestClock;
let server: LiveServer;
let devices = 0;

beforeAll(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
});

afterAll(() => server.close());

/** A device of its own for a test. */
async function newDevice(more: Record<string, unknown> = {}): Promise<{ id: string; token: string }> {
  const id = `sleeper-${(devices += 1)}`;
  return { id, token: await server.createDevice(id, { wake: { cron: '0 * * * *' }, ...more }) };
}

const sync = (credential: string, body: unknown, headers: Record<string, string> = {}) =>
  server.request<Synced>('POST', '/v1/device/sync', { credential, body, headers });
const readings = async (id: string, metric: string): Promise<Points['points']> =>
  (await server.request<Points>('GET', `/v1/devices/${id}/telemetry?metric=${metric}`)).body.points;
const idsOf = ({ body }: { body: Synced }): string[] => body.commands.map(({ id }) => id);

async function raw(
  credential: string,
  body: Uint8Array | string,
  headers: Record<string, string>,
): Promise<{ status: number; type: string | null; octets: Buffer }> {
  const response = await fetch(`${server.url}/v1/device/sync`, {
    method: 'POST',
    body,
    headers: { authorization: `Bearer ${credential}`, ...headers },
  });
  return {
    status: response.status,
    type: response.headers.get('content-type'),
    octets: Buffer.from(await response.arrayBuffer()),
  };
}

describe('a whole wake in one trip', () => {
  test('stores readings, counts reports and confirms, then hands over what is queued', async () => {
    const { id, token } = await newDevice();
    const done = await server.issue(id, { name: 'done' });
    const had = await server.issue(id, { name: 'had' });
    expect(idsOf(await sync(token, {}))).toEqual([done.id, had.id]);
    const fresh = await server.issue(id, { name: 'fresh' });

    const answer = await sync(token, {
      telemetry: [{ ts: START - 1_000, values: { temperature: 21.5 } }],
      reports: [
        { id: done.id, state: 'running', progress: 50 },
        { id: done.id, state: 'succeeded', result: { ok: true } },
      ],
      confirms: [had.id],
    });
    expect(answer.status).toBe(200);
    expect(answer.body).toEqual({
      time: '2026-05-01T10:10:00.000Z',
      commands: [expect.objectContaining({ id: fresh.id, name: 'fresh', attempt: 1 })],
      more: false,
      cursor: expect.any(String),
      sleep: { untilSeconds: expect.any(Number), wakeAt: expect.any(String), reason: expect.any(String) },
    });
    expect(answer.headers.get('retry-after')).toBe(String(answer.body.sleep.untilSeconds));
    expect(await server.command(done.id)).toMatchObject({ state: 'succeeded', result: { ok: true }, progress: 50 });
    expect(await server.command(had.id)).toMatchObject({ state: 'delivered' });
    expect(await readings(id, 'temperature')).toEqual([{ time: '2026-05-01T10:09:59.000Z', value: 21.5 }]);
  });

  test('does not hand over again what is reported or confirmed with it, though it was queued once more', async () => {
    const { id, token } = await newDevice({ limits: { leaseSeconds: 5 } });
    const reported = await server.issue(id, { name: 'reported' });
    const confirmed = await server.issue(id, { name: 'confirmed' });
    await sync(token, {});
    clock.advance(6_000);
    await server.commandIn(reported.id, 'queued');
    await server.commandIn(confirmed.id, 'queued');
    const answer = await sync(token, { reports: [{ id: reported.id, state: 'failed' }], confirms: [confirmed.id] });
    expect(answer.body.commands).toEqual([]);
    expect((await server.command(reported.id)).state).toBe('failed');
    expect((await server.command(confirmed.id)).state).toBe('delivered');
  });

  test('confirms by cursor, and goes on after it', async () => {
    const { id, token } = await newDevice();
    const first = await server.issue(id, { name: 'first' });
    const { body } = await sync(token, { limit: 1 });
    const second = await server.issue(id, { name: 'second' });
    expect(idsOf(await sync(token, { since: body.cursor }))).toEqual([second.id]);
    expect((await server.command(first.id)).state).toBe('delivered');
  });

  test('counts messages as their single routes do', async () => {
    const { token } = await newDevice();
    const counts = async (): Promise<number[]> => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      return [
        'messages_total{transport="http",kind="telemetry"}',
        'messages_total{transport="http",kind="report"}',
        'readings_total{transport="http"}',
      ].map((name) => Number(new RegExp(`downlink_${name.replaceAll(/[{}]/g, '\\$&')} (\\d+)`).exec(text)?.[1] ?? 0));
    };
    const before = await counts();
    await sync(token, { telemetry: [{ a: 1, b: 2 }], reports: [{ id: UNKNOWN, state: 'failed' }] });
    const after = await counts();
    expect(after.map((count, i) => count - (before[i] ?? 0))).toEqual([1, 1, 2]);
  });
});

describe('a sync sent again after its answer was lost', () => {
  test('changes nothing more, and is given the same commands at once where its cursor says so', async () => {
    const { id, token } = await newDevice();
    const done = await server.issue(id, { name: 'done' });
    const { cursor } = (await sync(token, {})).body;
    const next = await server.issue(id, { name: 'next' });
    const message = {
      telemetry: [{ ts: START - 5_000, values: { temperature: 1 } }],
      reports: [{ id: done.id, state: 'succeeded', result: 1 }],
      confirms: [done.id],
      since: cursor,
    };
    expect(idsOf(await sync(token, message))).toEqual([next.id]);
    const again = await sync(token, message);
    expect(again.body.commands).toEqual([expect.objectContaining({ id: next.id, attempt: 2 })]);
    expect(again.body.refused).toBeUndefined();
    expect(await readings(id, 'temperature')).toHaveLength(1);
    expect(await server.command(done.id)).toMatchObject({ state: 'succeeded', result: 1 });
  });

  test('without a cursor is given what is left, and the rest when its lease lapses', async () => {
    const { id, token } = await newDevice({ limits: { leaseSeconds: 5 } });
    const lost = await server.issue(id, { name: 'lost' });
    expect(idsOf(await sync(token, {}))).toEqual([lost.id]);
    expect(idsOf(await sync(token, {}))).toEqual([]);
    clock.advance(6_000);
    await server.commandIn(lost.id, 'queued');
    expect(idsOf(await sync(token, {}))).toEqual([lost.id]);
  });
});

describe('reports and confirms that cannot count', () => {
  test('are told by place, kept among the rejects, and keep nothing else from counting', async () => {
    const { id, token } = await newDevice();
    const other = await newDevice();
    const foreign = await server.issue(other.id, { name: 'foreign' });
    const cancelled = await server.issue(id, { name: 'cancelled' });
    await server.request('DELETE', `/v1/commands/${cancelled.id}`);
    const good = await server.issue(id, { name: 'good' });
    const answer = await sync(token, {
      telemetry: { temperature: 7 },
      reports: [
        { id: foreign.id, state: 'succeeded' },
        { id: good.id, state: 'succeeded' },
        { id: cancelled.id, state: 'succeeded' },
      ],
      confirms: [UNKNOWN],
    });
    expect(answer.status).toBe(200);
    expect(answer.body.refused).toEqual([
      { at: 'reports[0]', id: foreign.id, code: 'unknown_command', message: expect.any(String) },
      { at: 'reports[2]', id: cancelled.id, code: 'command_finished', message: expect.any(String) },
      { at: 'confirms[0]', id: UNKNOWN, code: 'unknown_command', message: expect.any(String) },
    ]);
    expect((await server.command(good.id)).state).toBe('succeeded');
    expect((await server.command(foreign.id)).state).toBe('queued');
    expect((await server.command(cancelled.id)).state).toBe('cancelled');
    expect(await readings(id, 'temperature')).toHaveLength(1);
    const { body } = await server.request<{ rejects: { where: string; code: string }[] }>('GET', `/v1/devices/${id}/rejects`);
    expect(body.rejects.map(({ where, code }) => `${where} ${code}`).toSorted()).toEqual([
      '/v1/device/sync confirms[0] unknown_command',
      '/v1/device/sync reports[0] unknown_command',
      '/v1/device/sync reports[2] command_finished',
    ]);
  });

  test('are told as far as the answer may be long', async () => {
    const { token } = await newDevice();
    const confirms = Array.from({ length: 50 }, (_, i) => UNKNOWN.slice(0, -2) + String(i + 10));
    const { status, octets } = await raw(token, JSON.stringify({ confirms, maxBytes: 1_000 }), {
      'content-type': 'application/json',
    });
    expect(status).toBe(200);
    expect(octets.length).toBeLessThanOrEqual(1_000);
    const told = (JSON.parse(octets.toString()) as Synced).refused ?? [];
    expect(told.map(({ id }) => id)).toEqual(confirms.slice(0, told.length));
    expect(told.length).toBeGreaterThan(1);
  });

  test('a device’s word that it has what it was never given is taken', async () => {
    const { id, token } = await newDevice();
    const command = await server.issue(id, { name: 'known' });
    const answer = await sync(token, { confirms: [command.id] });
    expect(answer.body).toMatchObject({ commands: [] });
    expect(answer.body.refused).toBeUndefined();
    expect((await server.command(command.id)).state).toBe('delivered');
  });
});

describe('bounds of the answer', () => {
  test.each(['application/json', 'application/cbor'])(
    'maxBytes holds for the whole of it in %s; what does not fit comes next',
    async (accept) => {
      const { id, token } = await newDevice();
      const issued: string[] = [];
      for (let i = 0; i < 6; i += 1)
        issued.push((await server.issue(id, { name: 'fill', params: { text: 'x'.repeat(200) } })).id);
      const got: string[] = [];
      let more = true;
      while (more) {
        const { status, octets } = await raw(token, JSON.stringify({ maxBytes: 1_000 }), {
          'content-type': 'application/json',
          accept,
        });
        expect(status).toBe(200);
        expect(octets.length).toBeLessThanOrEqual(1_000);
        const body = (accept === 'application/cbor' ? decode(octets) : JSON.parse(octets.toString())) as Synced;
        expect(body.commands.length).toBeGreaterThan(0);
        got.push(...body.commands.map((command) => command.id));
        more = body.more;
      }
      expect(got).toEqual(issued);
    },
  );

  test('a command that no such answer holds is passed over, and its operator sees it', async () => {
    const { id, token } = await newDevice();
    const large = await server.issue(id, { name: 'large', priority: 'urgent', params: { text: 'x'.repeat(2_000) } });
    const small = await server.issue(id, { name: 'small' });
    const answer = await sync(token, { maxBytes: 600 });
    expect({ ids: idsOf(answer), more: answer.body.more }).toEqual({ ids: [small.id], more: false });
    expect(await server.command(large.id)).toMatchObject({
      state: 'queued',
      deferral: { reason: 'larger_than_max_bytes', bytesMax: 600 },
    });
  });
});

describe('CBOR', () => {
  const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');
  /** {"telemetry": {"a": 19.5}, "limit": 1}, written by hand after RFC 8949: no encoder of ours has a part in it. */
  const BY_HAND = hex('a2 69 74656c656d65747279 a1 6161 f94ce0 65 6c696d6974 01');
  const CBOR = { 'content-type': 'application/cbor' };

  test('in gives CBOR out, with octets as octets', async () => {
    const { id, token } = await newDevice();
    const octets = Buffer.from(Array.from({ length: 300 }, (_, i) => i % 256));
    await server.issue(id, { name: 'image', payload: octets.toString('base64'), contentType: 'image/png' });
    const answer = await raw(token, BY_HAND, CBOR);
    expect(answer).toMatchObject({ status: 200, type: 'application/cbor' });
    // "payload" and a byte string of 300 octets: 0x59 and two octets of length (RFC 8949, 3.1).
    expect(answer.octets.includes(Buffer.concat([hex('67 7061796c6f6164 59012c'), octets]))).toBe(true);
    expect(decode(answer.octets)).toMatchObject({
      time: expect.any(String),
      commands: [{ name: 'image', contentType: 'image/png', attempt: 1 }],
      more: false,
      sleep: { untilSeconds: expect.any(Number) },
    });
    expect((await readings(id, 'a')).map(({ value }) => value)).toEqual([19.5]);
  });

  test('or JSON comes out as Accept says, whatever came in', async () => {
    const { token } = await newDevice();
    expect((await raw(token, BY_HAND, { ...CBOR, accept: 'application/json' })).type).toMatch(/^application\/json/);
    expect((await raw(token, '{}', { 'content-type': 'application/json', accept: 'application/cbor' })).type).toBe(
      'application/cbor',
    );
    expect((await raw(token, '{}', { 'content-type': 'application/json', accept: 'application/senml+cbor' })).type).toBe(
      'application/cbor',
    );
  });

  test('that is cut, or nests too deeply, is refused', async () => {
    const { token } = await newDevice();
    expectProblem(await sync(token, BY_HAND.subarray(0, -1), CBOR), 'invalid_json');
    const deep = Buffer.concat([hex('a1 6161'), Buffer.alloc(40, 0x81), hex('01')]);
    expectProblem(await sync(token, deep, CBOR), 'invalid_json');
  });

  test.each(['application/senml+json', 'application/senml+cbor', 'text/plain'])('%s is not read here', async (type) => {
    const { token } = await newDevice();
    expectProblem(await sync(token, '[]', { 'content-type': type }), 'unsupported_media_type', 'Content-Type');
  });
});

describe('a device whose clock is far off', () => {
  test.each([
    ['1970', 60_000],
    ['2100', 4_102_444_800_000],
  ])('in %s: readings keep their spacing, and the given times beside them', async (_, deviceNow) => {
    const { id, token } = await newDevice();
    const telemetry = [deviceNow - 30_000, deviceNow - 10_000].map((ts, i) => ({ ts, values: { temperature: i } }));
    const { body } = await sync(token, { telemetry, sentAt: deviceNow });
    const now = Date.parse(body.time);
    const expected = [
      { time: new Date(now - 30_000).toISOString(), value: 0, givenTs: deviceNow - 30_000 },
      { time: new Date(now - 10_000).toISOString(), value: 1, givenTs: deviceNow - 10_000 },
    ];
    expect(await readings(id, 'temperature')).toEqual(expected);

    // Sent again a while later, by the same bytes and by a clock that has gone on: the same readings.
    clock.advance(2_000);
    await sync(token, { telemetry, sentAt: deviceNow });
    await sync(token, { telemetry, sentAt: deviceNow + 2_040 });
    expect(await readings(id, 'temperature')).toEqual(expected);

    // The clock was lost once more: at the next wake it shows the same again, and the readings are others.
    clock.advance(900_000);
    await sync(token, { telemetry, sentAt: deviceNow });
    expect(await readings(id, 'temperature')).toHaveLength(4);
  });

  test('a clock within the bounds is believed', async () => {
    const { id, token } = await newDevice();
    const ts = clock.now() - 86_400_000;
    await sync(token, { telemetry: { ts, values: { temperature: 1 } }, sentAt: new Date(ts).toISOString() });
    expect(await readings(id, 'temperature')).toEqual([{ time: new Date(ts).toISOString(), value: 1 }]);
  });

  test('readings without a time are the server’s, whatever the clock', async () => {
    const { id, token } = await newDevice();
    await sync(token, { telemetry: [{ temperature: 1 }], sentAt: 5_000 });
    const [reading] = await readings(id, 'temperature');
    expect(reading?.givenTs).toBeUndefined();
    expect(Date.parse(reading?.time ?? '')).toBe(clock.now());
  });
});
