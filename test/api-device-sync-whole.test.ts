import { cp, mkdtemp, readdir, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encode } from 'cborg';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stateFolder } from '../broker/data-folder.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { expectProblem } from './api-support.ts';
import { LiveServer } from './live-server.ts';
import { INFLUX_AWAY } from './servers/influxd.ts';

/** A one-trip wake counts whole or not at all: whatever part is bad, with the journal full, and wherever a crash cuts it off. */
const RUNS = 40;

type Message = Record<string, unknown> & { telemetry: unknown[]; reports: Record<string, unknown>[]; confirms: unknown[] };

let server: LiveServer;
let devices = 0;

beforeAll(async () => {
  server = await LiveServer.start({ journalBytesMax: 200_000 });
});

afterAll(() => server.close());

/** A device with one command that it has, and one that is queued; and a sync that speaks of the first. */
async function scene(of: LiveServer): Promise<{ id: string; token: string; had: string; queued: string; message: Message }> {
  const id = `whole-${(devices += 1)}`;
  const token = await of.createDevice(id);
  const { id: had } = await of.issue(id, { name: 'had' });
  const { body } = await of.request<{ cursor: string }>('POST', '/v1/device/sync', { credential: token, body: {} });
  const { id: queued } = await of.issue(id, { name: 'queued' });
  const message = {
    telemetry: [1, 2, 3].map((temperature) => ({ ts: Date.now() - temperature * 1_000, values: { temperature } })),
    reports: [
      { id: had, state: 'running', progress: 50 },
      { id: had, state: 'succeeded' },
    ],
    confirms: [had],
    since: body.cursor,
    limit: 5,
    maxBytes: 4_000,
    sentAt: Date.now(),
  };
  return { id, token, had, queued, message };
}

/** What spoils a message, and the place that is to be named. */
const spoilers: ((message: Message, pick: number) => string)[] = [
  ({ telemetry }, pick) => {
    const at = pick % telemetry.length;
    telemetry[at] = { ts: 1, values: { temperature: null } };
    return `telemetry[${at}].values.temperature`;
  },
  ({ telemetry }, pick) => {
    const at = pick % telemetry.length;
    telemetry[at] = pick;
    return `telemetry[${at}]`;
  },
  ({ reports }, pick) => {
    const at = pick % reports.length;
    reports[at] = { ...reports[at], progress: 101 };
    return `reports[${at}].progress`;
  },
  ({ reports }, pick) => {
    const at = pick % reports.length;
    reports[at] = { ...reports[at], state: 'done' };
    return `reports[${at}].state`;
  },
  ({ confirms }, pick) => {
    confirms.push(pick);
    return 'confirms[1]';
  },
  (message) => {
    message['since'] = 'A'.repeat(32);
    return 'since';
  },
  (message, pick) => {
    message['limit'] = 101 + pick;
    return 'limit';
  },
  (message, pick) => {
    message['maxBytes'] = pick % 64;
    return 'maxBytes';
  },
  (message, pick) => {
    message['sentAt'] = -1 - pick;
    return 'sentAt';
  },
  (message, pick) => {
    message[`x${pick}`] = 1;
    return `x${pick}`;
  },
];

test('whichever part is bad, the place is named and nothing of it counts; mended, all of it does', async () => {
  const property = fc.asyncProperty(
    fc.integer({ min: 0, max: spoilers.length - 1 }),
    fc.nat({ max: 1_000 }),
    fc.constantFrom('application/json', 'application/cbor'),
    async (which, pick, type) => {
      const { id, token, had, queued, message } = await scene(server);
      const spoiled = structuredClone(message);
      const at = spoilers[which]?.(spoiled, pick);
      const send = (body: Message) =>
        server.request('POST', '/v1/device/sync', {
          credential: token,
          body: type === 'application/cbor' ? encode(body) : body,
          headers: { 'content-type': type, accept: 'application/json' },
        });
      const answer = await send(spoiled);
      expect({ status: answer.status, at: answer.body['at'] }).toEqual({ status: 400, at });
      expect((await server.command(had)).state).toBe('sent');
      expect(await server.command(queued)).toMatchObject({ state: 'queued', attempts: 0 });
      const latest = async (): Promise<unknown> =>
        (await server.request('GET', `/v1/devices/${id}/telemetry/latest`)).body['metrics'];
      expect(await latest()).toEqual({});

      expect((await send(message)).status).toBe(200);
      expect((await server.command(had)).state).toBe('succeeded');
      expect((await server.command(queued)).state).toBe('sent');
      expect(await latest()).toMatchObject({ temperature: { value: 1 } });
    },
  );
  await fc.assert(property, { numRuns: RUNS });
});

test('with another device’s cursor nothing counts', async () => {
  const mine = await scene(server);
  const other = await scene(server);
  const body = { ...mine.message, since: other.message['since'] };
  expectProblem(await server.request('POST', '/v1/device/sync', { credential: mine.token, body }), 'invalid_cursor', 'since');
  expect((await server.command(mine.had)).state).toBe('sent');
});

test('with the journal full nothing counts, and all of it once there is room', async () => {
  const { token, had, queued, message } = await scene(server);
  const telemetry = Array.from({ length: 250 }, (_, i) => ({ ts: Date.now() - i, values: { text: 'x'.repeat(1_000) } }));
  const answer = await server.request('POST', '/v1/device/sync', { credential: token, body: { ...message, telemetry } });
  expectProblem(answer, 'journal_full');
  expect(answer.headers.get('retry-after')).toMatch(/^\d+$/);
  expect((await server.command(had)).state).toBe('sent');
  expect((await server.command(queued)).state).toBe('queued');
  expect((await server.request('POST', '/v1/device/sync', { credential: token, body: message })).status).toBe(200);
  expect((await server.command(had)).state).toBe('succeeded');
});

describe('a crash', () => {
  const logOf = async (of: string): Promise<string> => join(of, (await readdir(of)).find((name) => name.endsWith('.log')) ?? '');

  test('leaves all of a sync or nothing of it, wherever it cuts the log', async () => {
    // With History away the journal keeps what there is to see.
    const alone = await LiveServer.start({ influx: INFLUX_AWAY });
    try {
      const { id, token, had, message } = await scene(alone);
      const folder = stateFolder(alone.dataDir);
      const { size: from } = await stat(await logOf(folder));
      expect((await alone.request('POST', '/v1/device/sync', { credential: token, body: message })).status).toBe(200);
      const { size: to } = await stat(await logOf(folder));
      const seen = new Set<string>();
      for (let i = 0; i <= 30; i += 1) {
        const copy = await mkdtemp(join(tmpdir(), 'downlink-cut-'));
        await cp(folder, copy, { recursive: true });
        await truncate(await logOf(copy), from + Math.floor(((to - from) * i) / 30));
        const cut = await LevelState.open({ folder: copy, journalBytesMax: 1_000_000, clock: { now: () => Date.now() } });
        const lines = (await cut.journal.read(0, 1_000_000))?.lines.toString() ?? '';
        const parts = [
          lines.split(`telemetry,device=${id} temperature=`).length === 4,
          /to="running"/.test(lines),
          /to="succeeded"/.test(lines),
          (await cut.get(`ended/${had}`)) !== undefined,
          (await cut.get(`command/${had}`)) === undefined,
        ];
        seen.add(parts.join());
        await cut.close();
        await rm(copy, { recursive: true });
      }
      expect([...seen]).toEqual([Array(5).fill(false).join(), Array(5).fill(true).join()]);
    } finally {
      await alone.close();
    }
  });
});
