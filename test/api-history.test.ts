import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { prepareDataFolder, stateFolder } from '../broker/data-folder.ts';
import { Metrics } from '../broker/metrics.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { Quarantine } from '../broker/store/quarantine.ts';
import { eventually, expectProblem } from './api-support.ts';
import { LiveServer } from './live-server.ts';
import { INFLUX_AWAY } from './servers/influxd.ts';

describe('while History is away', () => {
  let server: LiveServer;
  let token: string;

  beforeAll(async () => {
    server = await LiveServer.start({ influx: INFLUX_AWAY });
    token = await server.createDevice('pump');
  });

  afterAll(() => server.close());

  test('/readyz says what is wrong, and is 200 all the same since all new work is taken; /healthz that the process is up', async () => {
    const { status, body } = await eventually(async () => {
      const answer = await server.request<{ ready: boolean; reasons: string[] }>('GET', '/readyz');
      return answer.body.reasons.length > 0 ? answer : undefined;
    });
    expect({ status, ready: body.ready }).toEqual({ status: 200, ready: true });
    expect(body.reasons.join(' ')).toMatch(/InfluxDB/i);
    expect((await server.request('GET', '/healthz')).status).toBe(200);
  });

  test('telemetry and commands are taken all the same, and followed to their end', async () => {
    const send = await server.request('POST', '/v1/device/telemetry', { credential: token, body: { a: 1 } });
    expect(send.status).toBe(202);
    const { id } = await server.issue('pump', { name: 'x' });
    await server.request('POST', `/v1/device/commands/${id}`, { credential: token, body: { state: 'succeeded' } });
    expect((await server.command(id)).state).toBe('succeeded');
  });

  test('the list of commands says that it is partial, and one of open commands is whole', async () => {
    const { body } = await server.request('GET', '/v1/devices/pump/commands');
    expect(body).toMatchObject({ commands: [{ name: 'x', state: 'succeeded' }], partial: true });
    expect((await server.request('GET', '/v1/devices/pump/commands?state=open')).body).toEqual({ commands: [] });
  });

  test('what only History knows is 503', async () => {
    for (const path of [
      '/v1/devices/pump/telemetry?metric=a',
      '/v1/devices/pump/telemetry?metric=a&window=1h',
      '/v1/commands/019b76da-a800-7000-8000-000000000001',
    ]) {
      expectProblem(await server.request('GET', path), 'history_unavailable');
    }
  });

  test('the latest values that came in since the start are at hand', async () => {
    const { body } = await server.request('GET', '/v1/devices/pump/telemetry/latest');
    expect(body).toMatchObject({ metrics: { a: { value: 1 } } });
  });
});

test('rows that History refused are shown newest first, page by page, with its words', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'downlink-test-'));
  await prepareDataFolder(dataDir);
  const clock = { now: () => Date.parse('2026-05-01T10:00:00Z') };
  const state = await LevelState.open({ folder: stateFolder(dataDir), journalBytesMax: 1024 * 1024, clock });
  const quarantine = new Quarantine(state, new Metrics(), clock);
  await quarantine.keep(
    Array.from({ length: 5 }, (_, i) => ({ line: `telemetry,device=d a="${i}" 1`, reason: 'field type conflict' })),
  );
  await state.close();
  const server = await LiveServer.start({ dataDir });
  const page = (query: string) =>
    server.request<{ rows: Record<string, string>[]; cursor?: string }>('GET', `/v1/quarantine?limit=2${query}`);
  const first = (await page('')).body;
  expect(first.rows[0]).toEqual({
    time: '2026-05-01T10:00:00.000Z',
    line: 'telemetry,device=d a="4" 1',
    reason: 'field type conflict',
  });
  const second = (await page(`&cursor=${first.cursor}`)).body;
  const third = (await page(`&cursor=${second.cursor}`)).body;
  expect([...first.rows, ...second.rows, ...third.rows].map(({ line }) => line?.at(-4))).toEqual(['4', '3', '2', '1', '0']);
  expect(third).not.toHaveProperty('cursor');
  await server.close();
  await rm(dataDir, { recursive: true, force: true });
});
