import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LiveServer, TestClock, type CommandView } from './live-server.ts';

/** One clock: an hour forth or back, with the server up or down, loses nothing and stores nothing twice or over another. */
const START = Date.parse('2026-05-01T10:00:00Z');
const HOUR = 3_600_000;

type Readings = { points: { time: string; value: number }[] };
type Pulled = { commands: { id: string; name: string }[] };

let clock: TestClock;
let server: LiveServer;

beforeEach(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
});

afterEach(() => server.close());

async function send(token: string, message: unknown): Promise<void> {
  const { status } = await server.request('POST', '/v1/device/telemetry', { credential: token, body: message });
  expect(status).toBe(202);
}

/** The values in the order of their times. */
async function values(deviceId: string): Promise<number[]> {
  const { body } = await server.request<Readings>('GET', `/v1/devices/${deviceId}/telemetry?metric=n`);
  return body.points.map(({ value }) => value);
}

const jumps = [
  ['an hour back', -HOUR],
  ['an hour forth', HOUR],
] as const;

describe.each(jumps)('telemetry without a time over a jump of %s', (_, jumpMs) => {
  test('is all kept, in its order where the clock went on or back, with the server up', async () => {
    const token = await server.createDevice('d');
    for (let n = 0; n < 10; n += 1) await send(token, { n });
    clock.advance(jumpMs);
    for (let n = 10; n < 20; n += 1) await send(token, { n });
    clock.advance(-jumpMs);
    for (let n = 20; n < 30; n += 1) await send(token, { n });
    expect(await values('d')).toEqual(Array.from({ length: 30 }, (__, n) => n));
  });

  test('is all kept when the server was down meanwhile, though the same times come again', async () => {
    const token = await server.createDevice('d');
    const other = await server.createDevice('other');
    for (let n = 0; n < 10; n += 1) await send(token, [{ n: 3 * n }, { n: 3 * n + 1 }, { n: 3 * n + 2 }]);
    await send(other, { n: 0 });
    await server.restart(() => clock.advance(jumpMs));
    for (let n = 30; n < 40; n += 1) await send(token, { n });
    await server.restart(() => clock.advance(-jumpMs));
    for (let n = 40; n < 50; n += 1) await send(token, { n });
    await send(other, { n: 1 });
    expect(await values('d')).toEqual(Array.from({ length: 50 }, (__, n) => n));
    expect(await values('other')).toEqual([0, 1]);
  });
});

test('a reading with a time of its own is one reading, however the clock jumps between its repeats', async () => {
  const token = await server.createDevice('d');
  const message = { ts: START - HOUR, values: { n: 1 } };
  await send(token, message);
  clock.advance(-2 * HOUR + 60_000);
  await server.restart();
  clock.advance(3 * HOUR);
  await send(token, message);
  expect(await values('d')).toEqual([1]);
});

describe.each(jumps)('commands over a restart with the clock set %s', (_, jumpMs) => {
  test('all stay, each once, in the order in which they were issued', async () => {
    await server.createDevice('d');
    const issued: string[] = [];
    for (let n = 0; n < 5; n += 1) issued.push((await server.issue('d', { name: 'same', params: n })).id);
    await server.restart(() => clock.advance(jumpMs));
    for (let n = 5; n < 10; n += 1) issued.push((await server.issue('d', { name: 'same', params: n })).id);
    const { body } = await server.request<{ commands: CommandView[] }>('GET', '/v1/devices/d/commands');
    expect(body.commands.map(({ id }) => id)).toEqual(issued.toReversed());
  });

  test('are handed over in the order of issue, and the newer of a key takes the place of the older', async () => {
    const token = await server.createDevice('d');
    const old = await server.issue('d', { name: 'old', key: 'k' });
    const first = await server.issue('d', { name: 'first' });
    await server.restart(() => clock.advance(jumpMs));
    const fresh = await server.issue('d', { name: 'fresh', key: 'k' });
    expect(await server.command(old.id)).toMatchObject({ state: 'superseded', supersededBy: fresh.id });
    await server.restart();
    const { body } = await server.request<Pulled>('GET', '/v1/device/commands', { credential: token });
    expect(body.commands.map(({ id }) => id)).toEqual([first.id, fresh.id]);
  });

  test('are given by their key as before', async () => {
    await server.createDevice('d');
    const once = { body: { name: 'open' }, headers: { 'idempotency-key': 'order-1' } };
    const first = await server.request<CommandView>('POST', '/v1/devices/d/commands', once);
    await server.restart(() => clock.advance(jumpMs));
    const again = await server.request<CommandView>('POST', '/v1/devices/d/commands', once);
    expect(again).toMatchObject({ status: 201, body: { id: first.body.id } });
  });
});

test('a jump forth ends what came due, a jump back keeps its end', async () => {
  const token = await server.createDevice('d');
  const { id } = await server.issue('d', { name: 'soon', expires: { inSeconds: 1_800 } });
  const { id: later } = await server.issue('d', { name: 'later' });
  clock.advance(HOUR);
  await server.commandIn(id, 'expired');
  await server.restart(() => clock.advance(-HOUR));
  expect((await server.command(id)).state).toBe('expired');
  const { body } = await server.request<Pulled>('GET', '/v1/device/commands', { credential: token });
  expect(body.commands.map((command) => command.id)).toEqual([later]);
});

test.each(['up', 'down'])(
  'a hand-over without an answer is repeated soon, though the clock went back an hour with the server %s',
  async (server_is) => {
    const token = await server.createDevice('d', { limits: { leaseSeconds: 10 } });
    const { id } = await server.issue('d', { name: 'work' });
    await server.request('GET', '/v1/device/commands', { credential: token });
    const { id: soon } = await server.issue('d', { name: 'soon', expires: { inSeconds: 1 } });
    clock.advance(1_000);
    await server.commandIn(soon, 'expired');
    expect((await server.command(id)).state).toBe('sent');
    if (server_is === 'up') clock.advance(-HOUR);
    else await server.restart(() => clock.advance(-HOUR));
    await server.commandIn(id, 'queued');
  },
);
