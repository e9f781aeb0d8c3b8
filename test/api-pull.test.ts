import { decode } from 'cborg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { expectProblem } from './api-support.ts';
import { LiveServer, TestClock, type Answer, type MqttDevice } from './live-server.ts';

const START = Date.parse('2026-05-01T10:10:00Z');

type Pulled = { commands: { id: string; attempt: number }[]; more: boolean; cursor: string };
type Deferred = { deferral?: { reason: string; at: string; bytes?: number; bytesMax?: number } };

let clock: TestClock;
let server: LiveServer;
let device: string;
let token: string;
let count = 0;

beforeAll(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
});
afterAll(() => server.close());
beforeEach(async () => {
  device = `label-${(count += 1)}`;
  token = await server.createDevice(device);
});

const pull = (query = '', headers: Record<string, string> = {}): Promise<Answer<Pulled>> =>
  server.request<Pulled>('GET', `/v1/device/commands${query}`, { credential: token, headers });
const issue = async (name: string, more: Record<string, unknown> = {}): Promise<string> =>
  (await server.issue(device, { name, ...more })).id;
const idsOf = ({ body }: Answer<Pulled>): string[] => (body.commands ?? []).map(({ id }) => id);
const stateOf = async (id: string): Promise<string> => (await server.command(id)).state;

describe('a cursor given as since', () => {
  test('confirms the commands of its answer, also after their lease', async () => {
    const [a, b] = [await issue('a'), await issue('b')];
    const { body } = await pull();
    clock.advance(31_000);
    await server.commandIn(a, 'queued');
    const again = await pull(`?since=${body.cursor}`);
    expect(again.status).toBe(204);
    expect([await stateOf(a), await stateOf(b)]).toEqual(['delivered', 'delivered']);
  });

  test('ends commands that ask for delivery alone', async () => {
    const id = await issue('a', { confirm: 'delivery' });
    await pull(`?since=${(await pull()).body.cursor}`);
    expect(await stateOf(id)).toBe('succeeded');
  });

  test('has what was handed over after it offered again at once: its answer was lost', async () => {
    const a = await issue('a');
    const { cursor } = (await pull()).body;
    const b = await issue('b');
    expect(idsOf(await pull(`?since=${cursor}`))).toEqual([b]);
    const again = await pull(`?since=${cursor}`);
    expect(again.body.commands).toMatchObject([{ id: b, attempt: 2 }]);
    await pull(`?since=${again.body.cursor}`);
    expect([await stateOf(a), await stateOf(b)]).toEqual(['delivered', 'delivered']);
  });

  test('confirms nothing of an answer that was lost before', async () => {
    const lost = await issue('lost');
    await pull();
    const got = await issue('got');
    const { body } = await pull();
    expect(body.commands).toMatchObject([{ id: got }]);
    await pull(`?since=${body.cursor}`);
    expect([await stateOf(lost), await stateOf(got)]).toEqual(['sent', 'delivered']);
    clock.advance(31_000);
    await server.commandIn(lost, 'queued');
    expect(idsOf(await pull(`?since=${body.cursor}`))).toEqual([lost]);
  });

  test('without one, what was handed over stays leased until its lease is over', async () => {
    const id = await issue('a');
    await pull();
    expect((await pull()).status).toBe(204);
    clock.advance(30_000);
    await server.commandIn(id, 'queued');
    expect((await pull()).body.commands).toMatchObject([{ id, attempt: 2 }]);
  });

  test('that is old confirms what it did, once more, and nothing else', async () => {
    const a = await issue('a');
    const old = (await pull()).body.cursor;
    await pull(`?since=${old}`);
    const b = await issue('b');
    const { cursor } = (await pull(`?since=${old}`)).body;
    await pull(`?since=${cursor}`);
    expect((await pull(`?since=${old}`)).status).toBe(204);
    expect([await stateOf(a), await stateOf(b)]).toEqual(['delivered', 'delivered']);
  });

  test('leaves alone what went out by MQTT: it may still be under way, or lost', async () => {
    const silent = async (): Promise<MqttDevice> => {
      const mqtt = await server.connect(device, token);
      mqtt.client.handleMessage = () => {};
      await mqtt.subscribe('commands');
      return mqtt;
    };
    const first = await silent();
    const pushed = await issue('pushed');
    await server.commandIn(pushed, 'sent');
    first.vanish();
    await server.commandIn(pushed, 'queued');
    const { body } = await pull();
    expect(body.commands).toMatchObject([{ id: pushed, attempt: 2 }]);
    const again = await silent();
    const second = await issue('second');
    await server.commandIn(second, 'sent');
    await pull(`?since=${body.cursor}`);
    expect([await stateOf(pushed), await stateOf(second)]).toEqual(['delivered', 'sent']);
    again.vanish();
    await server.commandIn(second, 'queued');
  });

  test('keeps its worth over a restart', async () => {
    const a = await issue('a');
    const { cursor } = (await pull()).body;
    await server.restart();
    expect((await pull(`?since=${cursor}`)).status).toBe(204);
    expect(await stateOf(a)).toBe('delivered');
  });

  test('comes with a confirmation that is on disk before the answer', async () => {
    const a = await issue('a');
    const { cursor } = (await pull()).body;
    await pull(`?since=${cursor}`);
    await server.restart();
    expect(await stateOf(a)).toBe('delivered');
  });

  test.each<[string, (own: string) => string | Promise<string>]>([
    ['that is none', () => 'x'],
    ['that is empty', () => ''],
    ['that was cut short', (own) => own.slice(0, 20)],
    ['with a changed octet', (own) => (own.startsWith('A') ? 'B' : 'A') + own.slice(1)],
    [
      'of another device',
      async () => {
        const credential = await server.createDevice(`foreign-${count}`);
        await server.issue(`foreign-${count}`, { name: 'a' });
        return (await server.request<Pulled>('GET', '/v1/device/commands', { credential })).body.cursor;
      },
    ],
    [
      'of a device that had this id before',
      async (own) => {
        await server.request('DELETE', `/v1/devices/${device}`);
        clock.advance(1);
        token = await server.createDevice(device);
        return own;
      },
    ],
  ])('%s is a clear 400, and changes nothing', async (_, wrong) => {
    await issue('a');
    const own = (await pull()).body.cursor;
    const since = await wrong(own);
    const id = await issue('b');
    const answer = await pull(`?since=${since}`);
    expectProblem(answer, 'invalid_cursor', 'query.since');
    expect((answer.body as unknown as { detail: string }).detail).toMatch(/start again without it/);
    expect(await stateOf(id)).toBe('queued');
    expect(idsOf(await pull())).toEqual([id]);
  });

  test('keeps its worth when the clock is set back', async () => {
    const other = await LiveServer.start({}, clock);
    const credential = await other.createDevice('label');
    const { id } = await other.issue('label', { name: 'a' });
    const { body } = await other.request<Pulled>('GET', '/v1/device/commands', { credential });
    await other.restart(() => clock.advance(-3_600_000));
    const answer = await other.request('GET', `/v1/device/commands?since=${body.cursor}`, { credential });
    expect([answer.status, (await other.command(id)).state]).toEqual([204, 'delivered']);
    clock.advance(3_600_000);
    await other.close();
  });
});

describe('packing', () => {
  const deferralOf = async (id: string): Promise<Deferred['deferral']> => ((await server.command(id)) as Deferred).deferral;
  const bodyOf = async (query: string, accept: string): Promise<Buffer> => {
    const response = await fetch(`${server.url}/v1/device/commands${query}`, {
      headers: { authorization: `Bearer ${token}`, accept },
    });
    return Buffer.from(await response.arrayBuffer());
  };

  test('ends at the limit, says that there is more, and tells the operator why the rest waits', async () => {
    const [low, urgent, normal] = [
      await issue('low', { priority: 'low' }),
      await issue('urgent', { priority: 'urgent' }),
      await issue('normal'),
    ];
    const first = await pull('?limit=1');
    expect([idsOf(first), first.body.more]).toEqual([[urgent], true]);
    expect(first.headers.get('retry-after')).toBe('0');
    expect(await deferralOf(normal)).toMatchObject({ reason: 'over_limit' });
    expect(idsOf(await pull('?limit=2'))).toEqual([normal, low]);
    expect(await deferralOf(low)).toBeUndefined();
  });

  test.each(['application/json', 'application/cbor'])('keeps the whole answer within maxBytes, in %s', async (accept) => {
    for (let i = 0; i < 12; i += 1) await issue(`show-${i}`, { params: { text: 'é'.repeat(10 * i) } });
    const sizes: number[] = [];
    for (const maxBytes of [600, 800, 1_200, 2_000]) {
      const body = await bodyOf(`?maxBytes=${maxBytes}&limit=100`, accept);
      const { commands } = (accept === 'application/cbor' ? decode(body) : JSON.parse(body.toString())) as Pulled;
      expect(commands.length).toBeGreaterThan(0);
      expect(body.length).toBeLessThanOrEqual(maxBytes);
      sizes.push(commands.length);
    }
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(12);
  });

  test('never lets a small command overtake a large one, and drops none', async () => {
    const [first, large, small] = [await issue('a'), await issue('b', { params: 'x'.repeat(500) }), await issue('c')];
    const answer = await pull('?maxBytes=900');
    expect([idsOf(answer), answer.body.more]).toEqual([[first], true]);
    expect(await deferralOf(large)).toEqual({
      reason: 'over_max_bytes',
      at: expect.anything(),
      bytes: expect.any(Number),
      bytesMax: 900,
    });
    expect(await deferralOf(small)).toMatchObject({ reason: 'over_max_bytes' });
    expect(idsOf(await pull('?maxBytes=1100'))).toEqual([large, small]);
  });

  test('passes over a command that is larger than maxBytes alone, which the operator sees, and does not call it more', async () => {
    const [large, small] = [await issue('large', { params: 'x'.repeat(2_000), priority: 'high' }), await issue('small')];
    const answer = await pull('?maxBytes=1000');
    expect([idsOf(answer), answer.body.more]).toEqual([[small], false]);
    expect(await deferralOf(large)).toMatchObject({ reason: 'larger_than_max_bytes', bytesMax: 1_000 });
    expect((await pull('?maxBytes=1000')).status).toBe(204);
    expect(idsOf(await pull('?maxBytes=4000'))).toEqual([large]);
  });
});

describe('a conditional poll', () => {
  const validatorsOf = ({ headers }: Answer<Pulled>): { etag: string; modified: string } => ({
    etag: headers.get('etag') ?? expect.fail('no ETag'),
    modified: headers.get('last-modified') ?? expect.fail('no Last-Modified'),
  });

  test('with the tag of an empty queue is 304 until something is queued, and says when to come again', async () => {
    const empty = await pull();
    const { etag } = validatorsOf(empty);
    const same = await pull('', { 'if-none-match': etag });
    expect([empty.status, same.status, same.headers.get('retry-after')]).toEqual([204, 304, '30']);
    expect(validatorsOf(same).etag).toBe(etag);
    const id = await issue('a');
    const next = await pull('', { 'if-none-match': etag });
    expect([next.status, idsOf(next)]).toEqual([200, [id]]);
    expect(validatorsOf(next).etag).not.toBe(etag);
    expect((await pull('', { 'if-none-match': etag })).status).toBe(304);
  });

  test('with the tag of the answer before is 304 when that took all there was', async () => {
    await issue('a');
    const { etag } = validatorsOf(await pull());
    expect((await pull('', { 'if-none-match': etag })).status).toBe(304);
    expect((await pull('', { 'if-none-match': '"another"' })).status).toBe(204);
    const id = await issue('b');
    expect(idsOf(await pull('', { 'if-none-match': etag }))).toEqual([id]);
    expect((await pull('', { 'if-none-match': etag })).status).toBe(204);
  });

  test('gets the rest when its tag is that of an answer with more to come', async () => {
    const ids = [await issue('a'), await issue('b')];
    const first = await pull('?limit=1');
    const second = await pull('?limit=1', { 'if-none-match': validatorsOf(first).etag });
    expect([...idsOf(first), ...idsOf(second)]).toEqual(ids);
  });

  test('gets a command again whose lease is over', async () => {
    const id = await issue('a');
    const { etag } = validatorsOf(await pull());
    clock.advance(31_000);
    await server.commandIn(id, 'queued');
    expect(idsOf(await pull('', { 'if-none-match': etag }))).toEqual([id]);
  });

  test('with a time is 304 while the last change is no later', async () => {
    await pull();
    clock.advance(5_000);
    const { modified } = validatorsOf(await pull());
    expect((await pull('', { 'if-modified-since': modified })).status).toBe(304);
    const id = await issue('a');
    expect(idsOf(await pull('', { 'if-modified-since': modified }))).toEqual([id]);
  });

  test('with a time never misses a change later in the same second', async () => {
    const first = await issue('a');
    const answer = await pull();
    expect(idsOf(answer)).toEqual([first]);
    const second = await issue('b');
    expect(idsOf(await pull('', { 'if-modified-since': validatorsOf(answer).modified }))).toEqual([second]);
    clock.advance(400);
    const third = await issue('c');
    expect(idsOf(await pull('', { 'if-modified-since': validatorsOf(answer).modified }))).toEqual([third]);
  });

  test('with a time of before the server was started anew is looked at', async () => {
    clock.advance(5_000);
    const { modified, etag } = validatorsOf(await pull());
    clock.advance(5_000);
    await server.restart();
    expect((await pull('', { 'if-modified-since': modified })).status).toBe(204);
    expect((await pull('', { 'if-none-match': etag })).status).toBe(304);
  });

  test('heeds the tag alone when a time is given as well', async () => {
    const { etag } = validatorsOf(await pull());
    const id = await issue('a');
    clock.advance(5_000);
    const tomorrow = new Date(clock.now() - 1_000).toUTCString();
    expect(idsOf(await pull('', { 'if-none-match': etag, 'if-modified-since': tomorrow }))).toEqual([id]);
  });

  test('with * is 304, since there is a queue', async () => {
    const id = await issue('a');
    expect((await pull('', { 'if-none-match': '*' })).status).toBe(304);
    expect(await stateOf(id)).toBe('queued');
  });

  test('counts as a contact and as a wake', async () => {
    const asleep = `sleeper-${count}`;
    token = await server.createDevice(asleep, { wake: { everySeconds: 900 } });
    const { etag } = validatorsOf(await pull());
    clock.advance(900_000);
    expect((await pull('', { 'if-none-match': etag })).status).toBe(304);
    const { body } = await server.request('GET', `/v1/devices/${asleep}`);
    expect(body).toMatchObject({ presence: { state: 'asleep', lastContactAt: new Date(clock.now()).toISOString() } });
  });

  test('is not to be kept by caches on the way', async () => {
    const { headers } = await pull();
    expect([headers.get('cache-control'), headers.get('vary')]).toEqual(['no-store', 'accept']);
  });

  test('that could not take a large command is 304 until it says that it can', async () => {
    const id = await issue('large', { params: 'x'.repeat(2_000) });
    const { etag } = validatorsOf(await pull('?maxBytes=500'));
    expect((await pull('?maxBytes=500', { 'if-none-match': etag })).status).toBe(304);
    expect(idsOf(await pull('', { 'if-none-match': etag }))).toEqual([id]);
  });
});

describe('two clients with one identity', () => {
  test('that poll at once get each command once', async () => {
    const ids: string[] = [];
    for (let i = 0; i < 20; i += 1) ids.push(await issue(`a-${i}`));
    const answers = await Promise.all(Array.from({ length: 10 }, () => pull('?limit=3')));
    expect(answers.flatMap(idsOf).toSorted()).toEqual(ids.toSorted());
  });

  test('one by MQTT and one that polls, get each command once', async () => {
    const mqtt = await server.connect(device, token);
    await mqtt.subscribe('commands');
    const ids: string[] = [];
    const pulled: string[] = [];
    for (let i = 0; i < 20; i += 1) {
      ids.push(await issue(`a-${i}`));
      pulled.push(...idsOf(await pull()));
    }
    const pushed: string[] = [];
    while (pushed.length + pulled.length < ids.length) pushed.push(String((await mqtt.next()).body['id']));
    expect([...pushed, ...pulled].toSorted()).toEqual(ids.toSorted());
    await mqtt.end();
  });
});

test('a report that is under way while the lease lapses counts, and the command is not handed out again', async () => {
  const id = await issue('a');
  await pull();
  clock.advance(30_000);
  await server.commandIn(id, 'queued');
  const report = await server.request('POST', `/v1/device/commands/${id}`, { credential: token, body: { state: 'succeeded' } });
  expect(report).toMatchObject({ status: 200, body: { state: 'succeeded' } });
  expect((await pull()).status).toBe(204);
});
