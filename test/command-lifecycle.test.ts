import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer, TestClock, type CommandView } from './live-server.ts';

const START = Date.parse('2026-05-01T10:10:00Z');
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

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
  const id = `device-${nth}`;
  return { id, token: await server.createDevice(id, more) };
}

type Pulled = { commands: { id: string; name: string; attempt: number }[]; more: boolean; sleep: Record<string, unknown> };

async function pull(token: string, query = ''): Promise<Pulled & { status: number; retryAfter: string | null }> {
  const { status, body, headers } = await server.request<Pulled>('GET', `/v1/device/commands${query}`, { credential: token });
  return { ...{ commands: [], more: false, sleep: {} }, ...body, status, retryAfter: headers.get('retry-after') };
}

async function report(token: string, id: string, body: Record<string, unknown>): Promise<number> {
  return (await server.request('POST', `/v1/device/commands/${id}`, { credential: token, body })).status;
}

describe('pulling', () => {
  test('leases by priority and age, says whether there is more, and ends with the report', async () => {
    const { id, token } = await newDevice();
    for (const [name, priority] of [
      ['a', 'low'],
      ['b', 'high'],
      ['c', 'high'],
    ])
      await server.issue(id, { name, priority });
    const first = await pull(token, '?limit=2');
    expect(first).toMatchObject({ status: 200, more: true, sleep: { untilSeconds: 0, reason: 'pending' } });
    expect(first.commands.map(({ name }) => name)).toEqual(['b', 'c']);
    const second = await pull(token, '?limit=2');
    expect(second).toMatchObject({ more: false, sleep: { untilSeconds: expect.any(Number), reason: 'activity' } });
    expect(second.commands.map(({ name }) => name)).toEqual(['a']);
    expect((await pull(token)).status).toBe(204);
    for (const { id: commandId } of [...first.commands, ...second.commands]) {
      expect(await report(token, commandId, { state: 'succeeded', result: 1 })).toBe(200);
      expect(await server.command(commandId)).toMatchObject({ state: 'succeeded', transport: 'http', result: 1 });
    }
  });

  test('with nothing queued is 204 with Retry-After from the device’s own schedule', async () => {
    const { token } = await newDevice({ wake: { cron: '*/30 * * * *', slackSeconds: 0 } });
    expect(await pull(token)).toMatchObject({ status: 204, retryAfter: String(20 * 60) });
    const every = await newDevice({ wake: { everySeconds: 900, slackSeconds: 0 } });
    expect((await pull(every.token)).retryAfter).toBe('900');
  });

  test('an unconfirmed lease lapses and the command is handed over again, up to maxAttempts', async () => {
    const { id, token } = await newDevice({ limits: { leaseSeconds: 10 } });
    const { id: commandId } = await server.issue(id, { name: 'reboot', maxAttempts: 2 });
    expect((await pull(token)).commands[0]).toMatchObject({ id: commandId, attempt: 1 });
    expect((await pull(token)).status).toBe(204);
    clock.advance(10_000);
    await server.commandIn(commandId, 'queued');
    expect((await pull(token)).commands[0]).toMatchObject({ id: commandId, attempt: 2 });
    clock.advance(10_000);
    expect(await server.commandIn(commandId, 'undeliverable')).toMatchObject({ attempts: 2 });
    expect(await report(token, commandId, { state: 'succeeded' })).toBe(200);
    expect(await server.command(commandId)).toMatchObject({ state: 'succeeded', late: true });
  });

  test('delivery alone ends a command that asks for no more', async () => {
    const { id, token } = await newDevice();
    const { id: commandId } = await server.issue(id, { name: 'beep', confirm: 'delivery' });
    await pull(token);
    expect(await report(token, commandId, { state: 'running' })).toBe(200);
    expect((await server.command(commandId)).state).toBe('succeeded');
  });
});

describe('deadlines', () => {
  test('a command expires when it was not delivered in time, and is not handed out any more', async () => {
    const { id, token } = await newDevice();
    const { id: commandId } = await server.issue(id, { name: 'now_or_never', expires: { inSeconds: 60 } });
    clock.advance(60_000);
    expect((await pull(token)).status).toBe(204);
    await server.commandIn(commandId, 'expired');
  });

  test('a delivered command times out without a report, and a late one counts', async () => {
    const { id, token } = await newDevice();
    const { id: commandId } = await server.issue(id, { name: 'slow', reportTimeoutSeconds: 30 });
    await pull(token);
    await report(token, commandId, { state: 'running' });
    clock.advance(30_000);
    await server.commandIn(commandId, 'timed_out');
    await report(token, commandId, { state: 'failed', message: 'jammed' });
    expect(await server.command(commandId)).toMatchObject({ state: 'failed', late: true, message: 'jammed' });
  });

  test('notBefore holds a command back until its time', async () => {
    const { id, token } = await newDevice();
    const notBefore = new Date(clock.now() + HOUR).toISOString();
    const { id: commandId } = await server.issue(id, { name: 'tonight', notBefore });
    expect((await pull(token)).status).toBe(204);
    clock.advance(HOUR);
    expect((await pull(token)).commands[0]).toMatchObject({ id: commandId });
  });

  test('a command pushed at its notBefore reaches a connected device by itself', async () => {
    const { id, token } = await newDevice();
    const device = await server.connect(id, token);
    await device.subscribe('commands');
    const { id: commandId } = await server.issue(id, { name: 'later', notBefore: clock.now() + HOUR });
    clock.advance(HOUR);
    expect((await device.next()).body).toMatchObject({ id: commandId });
    await device.end();
  });

  test('expiry by wakes ends a command that was on offer on as many', async () => {
    const { id, token } = await newDevice({ wake: { everySeconds: 600 }, limits: { leaseSeconds: 1 } });
    const { id: commandId } = await server.issue(id, { name: 'twice', expires: { wakes: 2 } });
    for (let wake = 1; wake <= 2; wake += 1) {
      clock.advance(10 * MINUTE);
      expect((await pull(token)).commands).toHaveLength(1);
      clock.advance(1_000);
      if (wake === 1) await server.commandIn(commandId, 'queued');
    }
    clock.advance(10 * MINUTE);
    expect((await pull(token)).status).toBe(204);
    await server.commandIn(commandId, 'expired');
  });

  test('expiry by wakes also ends a command whose device keeps no schedule, and only when it comes', async () => {
    const { id, token } = await newDevice({ limits: { leaseSeconds: 1 } });
    const { id: commandId } = await server.issue(id, { name: 'once', expires: { wakes: 1 } });
    const waiting = await server.command(commandId);
    expect(waiting).not.toHaveProperty('expiresAt');
    expect(waiting).toMatchObject({ forecast: { wakesBeforeExpiry: 1 } });
    clock.advance(300 * 24 * HOUR);
    expect((await pull(token)).commands).toMatchObject([{ id: commandId }]);
    expect(await server.command(commandId)).toMatchObject({ state: 'sent', wakes: 1, forecast: { wakesBeforeExpiry: 0 } });
    clock.advance(1_000);
    await server.commandIn(commandId, 'queued');
    // The same wake: it is on offer still.
    expect((await pull(token)).commands).toMatchObject([{ id: commandId, attempt: 2 }]);
    clock.advance(MINUTE);
    await server.commandIn(commandId, 'queued');
    expect((await pull(token)).status).toBe(204);
    expect(await server.command(commandId)).toMatchObject({ state: 'expired', error: 'not delivered within 1 wakes' });
  });

  test('expiry by wakes ends a command of a scheduled device that does not come, once the last of them is past its grace', async () => {
    const { id } = await newDevice({ wake: { cron: '0 * * * *', slackSeconds: 0 }, graceSeconds: 120 });
    const { id: commandId, ...issued } = await server.issue(id, { name: 'twice', expires: { wakes: 2 } });
    const secondWakeAt = Math.ceil((clock.now() + HOUR + 1) / HOUR) * HOUR;
    expect(issued).toMatchObject({
      expiresWakes: 2,
      expiresAt: new Date(secondWakeAt + 120_000).toISOString(),
      forecast: { wakesBeforeExpiry: 2 },
    });
    clock.advance(secondWakeAt + 119_000 - clock.now());
    expect(await server.command(commandId)).toMatchObject({ state: 'queued', wakes: 0 });
    clock.advance(1_000);
    await server.commandIn(commandId, 'expired');
  });

  test('what would expire before the device next wakes is refused, unless forced', async () => {
    const { id } = await newDevice({ wake: { cron: '0 * * * *' } });
    const body = { name: 'too_late', expires: { inSeconds: 1 } };
    const refused = await server.request('POST', `/v1/devices/${id}/commands`, { body });
    expect(refused).toMatchObject({ status: 422, body: { code: 'expires_before_next_wake' } });
    expect((await server.issue(id, { ...body, force: true })).state).toBe('queued');
  });

  test('the refusal says when the device wakes and the least expiry that reaches it, which is then taken', async () => {
    const { id } = await newDevice({ wake: { cron: '0 * * * *', slackSeconds: 0 } });
    const wakeAt = Math.ceil((clock.now() + 1) / HOUR) * HOUR;
    const body = { name: 'soon', expires: { inSeconds: 1 } };
    const refused = await server.request('POST', `/v1/devices/${id}/commands`, { body });
    const least = (wakeAt - clock.now()) / 1_000 + 1;
    expect(refused.body).toMatchObject({ nextWakeAt: new Date(wakeAt).toISOString(), expiresInSecondsMin: least, at: 'expires' });
    const tooSoon = await server.request('POST', `/v1/devices/${id}/commands`, {
      body: { ...body, expires: { inSeconds: least - 1 } },
    });
    expect(tooSoon.status).toBe(422);
    expect((await server.issue(id, { ...body, expires: { inSeconds: least } })).state).toBe('queued');
  });
});

describe('keys', () => {
  test('a newer command with the same key takes the place of a queued one', async () => {
    const { id, token } = await newDevice();
    const old = await server.issue(id, { name: 'set', params: 1, key: 'target' });
    const other = await server.issue(id, { name: 'set', params: 2, key: 'fan' });
    const fresh = await server.issue(id, { name: 'set', params: 3, key: 'target' });
    expect(fresh).toMatchObject({ supersedes: [old.id] });
    expect(other).not.toHaveProperty('supersedes');
    expect(await server.command(old.id)).toMatchObject({ state: 'superseded', supersededBy: fresh.id });
    expect((await pull(token)).commands.map((command) => command.id)).toEqual([other.id, fresh.id]);
  });

  test('one that is already sent gives way when its lease lapses', async () => {
    const { id, token } = await newDevice({ limits: { leaseSeconds: 5 } });
    const old = await server.issue(id, { name: 'set', key: 'k' });
    await pull(token);
    const fresh = await server.issue(id, { name: 'set', key: 'k' });
    expect((await server.command(old.id)).state).toBe('sent');
    expect(fresh).not.toHaveProperty('supersedes');
    clock.advance(5_000);
    expect(await server.commandIn(old.id, 'superseded')).toMatchObject({ supersededBy: fresh.id });
    expect(await server.command(fresh.id)).toMatchObject({ supersedes: [old.id] });
  });

  test('one that gives way after the newer one has ended is told on that all the same, also after a restart', async () => {
    const { id, token } = await newDevice({ limits: { leaseSeconds: 5 } });
    const old = await server.issue(id, { name: 'set', key: 'k' });
    await pull(token);
    const fresh = await server.issue(id, { name: 'set', key: 'k' });
    await pull(token);
    expect(await report(token, fresh.id, { state: 'succeeded' })).toBe(200);
    clock.advance(5_000);
    await server.commandIn(old.id, 'superseded');
    await server.restart();
    expect(await server.command(old.id)).toMatchObject({ state: 'superseded', supersededBy: fresh.id });
    expect(await server.command(fresh.id)).toMatchObject({ state: 'succeeded', supersedes: [old.id] });
  });

  test('one that the device turns out to have keeps its own life, and nobody claims its place', async () => {
    const { id, token } = await newDevice();
    const old = await server.issue(id, { name: 'set', key: 'k' });
    await pull(token);
    const fresh = await server.issue(id, { name: 'set', key: 'k' });
    expect(await report(token, old.id, { state: 'succeeded' })).toBe(200);
    const had = await server.command(old.id);
    expect(had).toMatchObject({ state: 'succeeded' });
    expect(had).not.toHaveProperty('supersededBy');
    expect(await server.command(fresh.id)).not.toHaveProperty('supersedes');
  });

  test('an Idempotency-Key gives the same command again, also after a restart, and refuses another body', async () => {
    const { id } = await newDevice();
    const path = `/v1/devices/${id}/commands`;
    const once = { body: { name: 'open', params: { a: 1, b: 2 } }, headers: { 'idempotency-key': 'order-17' } };
    const [first, twin] = await Promise.all([
      server.request<CommandView>('POST', path, once),
      server.request<CommandView>('POST', path, { ...once, body: { params: { b: 2, a: 1 }, name: 'open' } }),
    ]);
    expect(twin.body.id).toBe(first.body.id);
    await server.restart();
    expect((await server.request<CommandView>('POST', path, once)).body.id).toBe(first.body.id);
    const other = await server.request('POST', path, { ...once, body: { name: 'close' } });
    expect(other).toMatchObject({ status: 409, body: { code: 'idempotency_conflict' } });
  });
});

describe('bounds', () => {
  test('the 1,001st open command is refused with queue_full, and none is dropped', async () => {
    const { id } = await newDevice();
    const path = `/v1/devices/${id}/commands`;
    const answers = await Promise.all(
      Array.from({ length: 1_010 }, (_, i) => server.request('POST', path, { body: { name: 'n', params: i } })),
    );
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1_000);
    const refused = answers.filter(({ status }) => status === 429);
    expect(refused).toHaveLength(10);
    expect(refused[0]?.body).toMatchObject({ code: 'queue_full' });
    expect(refused[0]?.headers.get('retry-after')).toBeTruthy();
    expect((await server.request('GET', `/v1/devices/${id}`)).body).toMatchObject({ openCommands: 1_000 });
    await server.request('DELETE', `/v1/devices/${id}`);
  });
});

describe('a restart', () => {
  test('finds open commands where they were, expires what came due meanwhile, and hands out again what was leased', async () => {
    const { id, token } = await newDevice({ limits: { leaseSeconds: 60 } });
    const leased = await server.issue(id, { name: 'leased' });
    await pull(token);
    const stale = await server.issue(id, { name: 'stale', expires: { inSeconds: 600 } });
    const waiting = await server.issue(id, { name: 'waiting', priority: 'high' });
    const working = await server.issue(id, { name: 'working', priority: 'urgent', reportTimeoutSeconds: 600 });
    expect((await pull(token, '?limit=1')).commands.map((command) => command.id)).toEqual([working.id]);
    await report(token, working.id, { state: 'running' });

    await server.restart(() => clock.advance(HOUR));

    expect((await server.command(stale.id)).state).toBe('expired');
    expect((await server.command(working.id)).state).toBe('timed_out');
    const again = await pull(token);
    expect(again.commands).toMatchObject([
      { id: waiting.id, attempt: 1 },
      { id: leased.id, attempt: 2 },
    ]);
  });

  test('while a push is unconfirmed hands it out again', async () => {
    const { id, token } = await newDevice();
    const device = await server.connect(id, token);
    device.client.handleMessage = () => {};
    await device.subscribe('commands');
    const { id: commandId } = await server.issue(id, { name: 'pushed' });
    await server.commandIn(commandId, 'sent');
    await server.restart();
    expect((await pull(token)).commands).toMatchObject([{ id: commandId, attempt: 2 }]);
  });
});

describe('operators', () => {
  test('wait for the outcome and get it in the answer', async () => {
    const { id, token } = await newDevice();
    const device = await server.connect(id, token);
    await device.subscribe('commands');
    const waiting = server.request<CommandView>('POST', `/v1/devices/${id}/commands?wait=30`, { body: { name: 'ping' } });
    const { body } = await device.next();
    await device.publish(`commands/${String(body['id'])}`, { state: 'succeeded', result: 'pong' });
    expect(await waiting).toMatchObject({ status: 201, body: { state: 'succeeded', result: 'pong' } });
    await device.end();
  });

  test('cancel what is queued; what is delivered only by force', async () => {
    const { id, token } = await newDevice();
    const queued = await server.issue(id, { name: 'a' });
    expect(await server.request('DELETE', `/v1/commands/${queued.id}`)).toMatchObject({
      status: 200,
      body: { state: 'cancelled' },
    });
    const running = await server.issue(id, { name: 'b' });
    await pull(token);
    await report(token, running.id, { state: 'running' });
    expect(await server.request('DELETE', `/v1/commands/${running.id}`)).toMatchObject({
      status: 409,
      body: { code: 'command_delivered' },
    });
    expect(await server.request('DELETE', `/v1/commands/${running.id}?force=true`)).toMatchObject({
      status: 200,
      body: { state: 'cancelled' },
    });
    expect(await report(token, running.id, { state: 'succeeded' })).toBe(409);
  });

  test('see among the rejects what the device says of a command that was cancelled on its way to it', async () => {
    const { id, token } = await newDevice();
    const { id: commandId } = await server.issue(id, { name: 'open_valve' });
    await pull(token);
    await server.request('DELETE', `/v1/commands/${commandId}`);
    expect(await report(token, commandId, { state: 'succeeded' })).toBe(409);
    const { body } = await server.request<{ rejects: unknown[] }>('GET', `/v1/devices/${id}/rejects`);
    expect(body.rejects).toMatchObject([
      {
        code: 'command_finished',
        where: `/v1/device/commands/${commandId}`,
        message: expect.stringContaining('the command is cancelled'),
        excerpt: '{"state":"succeeded"}',
      },
    ]);
  });

  test('find commands by state and time, newest first, page by page', async () => {
    const { id, token } = await newDevice();
    const issued: string[] = [];
    for (let i = 0; i < 7; i += 1) {
      issued.push((await server.issue(id, { name: 'n', params: i })).id);
      clock.advance(1_000);
    }
    const { commands } = await pull(token, '?limit=3');
    for (const command of commands) await report(token, command.id, { state: 'succeeded' });
    const listed: string[] = [];
    let cursor = '';
    do {
      const { body } = await server.request<{ commands: CommandView[]; cursor?: string }>(
        'GET',
        `/v1/devices/${id}/commands?limit=2${cursor && `&cursor=${cursor}`}`,
      );
      listed.push(...body.commands.map((command) => command.id));
      cursor = body.cursor ?? '';
    } while (cursor !== '');
    expect(listed).toEqual(issued.toReversed());
    const ended = await server.request<{ commands: CommandView[] }>('GET', `/v1/devices/${id}/commands?state=succeeded`);
    expect(ended.body.commands.map((command) => command.id)).toEqual(issued.slice(0, 3).toReversed());
  });
});
