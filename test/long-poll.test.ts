import { on } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { eventually, expectProblem } from './api-support.ts';
import { LiveServer, TestClock, type Answer } from './live-server.ts';

type Pulled = { commands: { id: string; attempt: number }[]; cursor: string };

let clock: TestClock;
let server: LiveServer;
let token: string;

beforeEach(async () => {
  clock = new TestClock(Date.parse('2026-05-01T10:10:00Z'));
  server = await LiveServer.start({}, clock);
  token = await server.createDevice('label');
});
afterEach(() => server.close());

const pull = (query: string, headers: Record<string, string> = {}, credential = token): Promise<Answer<Pulled>> =>
  server.request<Pulled>('GET', `/v1/device/commands${query}`, { credential, headers });
const idsOf = ({ body }: Answer<Pulled>): string[] => (body.commands ?? []).map(({ id }) => id);

async function metric(name: string): Promise<number> {
  const text = await (
    await fetch(`${server.url}/metrics`, { headers: { authorization: 'Bearer test-admin-key-0123456789' } })
  ).text();
  return Number(new RegExp(`^${name.replaceAll(/[{}]/g, '\\$&')} (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
}

const parked = (count: number): Promise<true> =>
  eventually(async () => ((await metric('downlink_parked_polls')) === count ? true : undefined));

describe('a long poll', () => {
  test('is answered the moment a command is there', async () => {
    const poll = pull('?wait=60');
    await parked(1);
    const { id } = await server.issue('label', { name: 'show' });
    const answer = await poll;
    expect([answer.status, idsOf(answer)]).toEqual([200, [id]]);
    expect(answer.headers.get('etag')).toBeTruthy();
    await parked(0);
  });

  test('is answered at once when a command is there already', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    expect(idsOf(await pull('?wait=60'))).toEqual([id]);
  });

  test('is answered with 204 and when to come again at the end of its wait', async () => {
    const poll = pull('?wait=60');
    await parked(1);
    clock.advance(59_999);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await metric('downlink_parked_polls')).toBe(1);
    clock.advance(1);
    const answer = await poll;
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([204, '30']);
    expect(await metric('downlink_polls_total{status="204"}')).toBe(1);
  });

  test('makes its device one that waits, and no longer when it ends', async () => {
    const state = async (): Promise<unknown> =>
      (await server.request<{ presence: { state: string } }>('GET', '/v1/devices/label')).body.presence.state;
    const poll = pull('?wait=1');
    await parked(1);
    expect(await state()).toBe('waiting');
    clock.advance(1_000);
    await poll;
    expect(await state()).toBe('asleep');
  });

  test('confirms what since covers before it waits', async () => {
    const { id } = await server.issue('label', { name: 'show' });
    const { cursor } = (await pull('')).body;
    const poll = pull(`?wait=60&since=${cursor}`);
    await server.commandIn(id, 'delivered');
    const next = await server.issue('label', { name: 'show' });
    expect(idsOf(await poll)).toEqual([next.id]);
  });

  test('waits on when what comes is larger than it takes', async () => {
    const poll = pull('?wait=60&maxBytes=600');
    await parked(1);
    const large = await server.issue('label', { name: 'large', params: 'x'.repeat(2_000) });
    const small = await server.issue('label', { name: 'small' });
    expect(idsOf(await poll)).toEqual([small.id]);
    expect((await server.command(large.id)).state).toBe('queued');
  });

  test('that is conditional waits while nothing has changed, and is 304 at the end', async () => {
    const etag = (await pull('')).headers.get('etag') ?? '';
    const unchanged = pull('?wait=10', { 'if-none-match': etag });
    await parked(1);
    clock.advance(10_000);
    expect((await unchanged).status).toBe(304);
    const changed = pull('?wait=10', { 'if-none-match': etag });
    await parked(1);
    const { id } = await server.issue('label', { name: 'show' });
    expect(idsOf(await changed)).toEqual([id]);
  });

  test('is free again when its client goes away, and takes no command with it', async () => {
    const gone = new AbortController();
    const poll = fetch(`${server.url}/v1/device/commands?wait=60`, {
      headers: { authorization: `Bearer ${token}` },
      signal: gone.signal,
    }).catch(() => 'gone');
    await parked(1);
    gone.abort();
    expect(await poll).toBe('gone');
    await parked(0);
    const { id } = await server.issue('label', { name: 'show' });
    expect(await server.command(id)).toMatchObject({ state: 'queued', attempts: 0 });
    expect(idsOf(await pull(''))).toEqual([id]);
  });

  test('ends with 401 when its token is withdrawn', async () => {
    const poll = pull('?wait=60');
    await parked(1);
    await server.request('POST', '/v1/devices/label/token');
    expectProblem(await poll, 'unauthorized');
  });

  test('is 204 at once when its device has as many already, told not to hurry, and counted', async () => {
    const polls = Array.from({ length: DEFAULT_BOUNDS.parked_polls_per_device }, () => pull('?wait=60'));
    await parked(DEFAULT_BOUNDS.parked_polls_per_device);
    const answer = await pull('?wait=60');
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([204, '60']);
    expect(await metric('downlink_bound_reached_total{bound="parked_polls_per_device"}')).toBe(1);
    clock.advance(60_000);
    expect((await Promise.all(polls)).map(({ status }) => status)).toEqual([204, 204, 204, 204]);
  });
});

describe('an answer that never leaves', () => {
  const BIG = { name: 'show', params: 'x'.repeat(100) };
  /** Answers leave in the order of the requests: what comes after this waits behind it, since nothing fits into its answer. */
  const FIRST = 'wait=60&maxBytes=64';
  let socket: Socket;

  beforeEach(() => {
    const { hostname, port } = new URL(server.url);
    socket = connect(Number(port), hostname);
  });

  function poll(...queries: string[]): void {
    const heads = `HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`;
    socket.write(queries.map((query) => `GET /v1/device/commands?${query} ${heads}`).join(''));
  }

  test('gives its commands back at once, and the attempt does not count', async () => {
    const { id } = await server.issue('label', BIG);
    poll(FIRST, 'limit=1');
    await server.commandIn(id, 'sent');
    socket.destroy();
    await server.commandIn(id, 'queued');
    expect(await server.command(id)).toMatchObject({ state: 'queued', attempts: 0 });
    expect((await pull('?limit=1')).body.commands).toMatchObject([{ id, attempt: 1 }]);
  });

  test('does so with others of its connection, and leaves alone what an answer took that did leave', async () => {
    const taken = await server.issue('label', BIG);
    poll('limit=1');
    for await (const chunk of on(socket, 'data')) if (String(chunk).includes(taken.id)) break;
    const lost = [await server.issue('label', BIG), await server.issue('label', BIG)];
    poll(FIRST, 'limit=1', 'limit=1');
    for (const { id } of lost) await server.commandIn(id, 'sent');
    socket.destroy();
    for (const { id } of lost) await server.commandIn(id, 'queued');
    expect(await server.command(taken.id)).toMatchObject({ state: 'sent', attempts: 1 });
  });
});

describe('many long polls', () => {
  const POLLS = 1_000;

  test('are answered each with its own command, and at a stop at once and asked back at different seconds', async () => {
    const tokens: string[] = [];
    for (let i = 0; i < POLLS; i += 1) tokens.push(await server.createDevice(`fleet-${i}`));
    const polls = tokens.map((credential) => pull('?wait=60', {}, credential));
    await parked(POLLS);
    const chosen = [0, 499, 999];
    const issued = await Promise.all(chosen.map((i) => server.issue(`fleet-${i}`, { name: 'show' })));
    const answers = await Promise.all(chosen.map((i) => polls[i] ?? expect.fail()));
    expect(answers.flatMap(idsOf)).toEqual(issued.map(({ id }) => id));
    await parked(POLLS - chosen.length);

    await server.restart();
    const ended = (await Promise.all(polls)).filter((_, i) => !chosen.includes(i));
    expect(new Set(ended.map(({ status }) => status))).toEqual(new Set([204]));
    const seconds = ended.map(({ headers }) => Number(headers.get('retry-after')));
    expect(new Set(seconds).size).toBeGreaterThan(1);
    expect(Math.min(...seconds)).toBeGreaterThan(0);

    const back = tokens.map((credential) => pull('?wait=60', {}, credential));
    await parked(POLLS);
    const { id } = await server.issue('fleet-7', { name: 'show' });
    expect(idsOf(await (back[7] ?? expect.fail()))).toEqual([id]);
    clock.advance(60_000);
    await Promise.all(back);
  });
});
