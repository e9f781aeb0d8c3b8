import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ArgumentError, readArguments } from '../broker/arguments.ts';
import { restoreBackup, restoreReport } from '../broker/backup/restore.ts';
import { prepareDataFolder, restoringFolder, stateFolder } from '../broker/data-folder.ts';
import { uuidV7Ms } from '../devices/uuid-v7.ts';
import { startServer } from '../server.ts';
import { expectProblem, keyFor } from './api-support.ts';
import { LiveServer, TestClock } from './live-server.ts';
import { backUp } from './taken-backup.ts';

/** What comes of restoring a backup, and where it is refused. */
const NOW = Date.UTC(2026, 0, 1);
let folder = '';

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-backup-'));
});

afterEach(() => rm(folder, { recursive: true, force: true }));

/** A server that starts on the backup, in a folder of its own. */
function startOn(file: string, clock: { now(): number } = { now: () => Date.now() }): Promise<LiveServer> {
  return LiveServer.start({ dataDir: join(folder, 'restored') }, clock, async (config, given) => {
    const isFirst = !existsSync(stateFolder(config.dataDir));
    if (!isFirst) return startServer(config, given);
    return startServer(config, given, { restored: await restoreBackup(file, config.dataDir, given) });
  });
}

describe('a backup that is restored', () => {
  test('has the devices with their tokens, the keys, the open commands and the readings of when it was made', async () => {
    const live = await LiveServer.start();
    const token = await live.createDevice('pump', { labels: { site: 'north' }, wake: { everySeconds: 900 } });
    const viewer = await keyFor(live, 'viewer');
    const open = await live.issue('pump', { name: 'start', params: { text: 'zwei\nZeilen, "quoted" \u2028 \\' } });
    const ended = await live.issue('pump', { name: 'stop', params: {} });
    await live.request('DELETE', `/v1/commands/${ended.id}`);
    const at = Date.now();
    for (let n = 0; n < 50; n += 1) {
      await live.request('POST', '/v1/device/telemetry', { credential: token, body: { ts: at - n, values: { n } } });
    }
    const file = await backUp(live, folder);
    await live.createDevice('too-late');
    await live.close();

    const restored = await startOn(file);
    const { body: device } = await restored.request('GET', '/v1/devices/pump', { credential: viewer.secret });
    expect(device).toMatchObject({ id: 'pump', labels: { site: 'north' }, openCommands: 1 });
    expectProblem(await restored.request('GET', '/v1/devices/too-late'), 'unknown_device');
    expect(await restored.command(ended.id)).toMatchObject({ state: 'cancelled' });
    const { body: past } = await restored.request<{ points: unknown[] }>('GET', '/v1/devices/pump/telemetry?metric=n');
    expect(past.points).toHaveLength(50);
    const { body } = await restored.request<{ commands: { id: string; params: unknown }[] }>('GET', '/v1/device/commands', {
      credential: token,
    });
    expect(body.commands).toMatchObject([{ id: open.id, params: { text: 'zwei\nZeilen, "quoted" \u2028 \\' } }]);
    const { body: audit } = await restored.request<{ entries: unknown[] }>('GET', '/v1/audit?action=backup');
    expect(audit.entries).toMatchObject([{ action: 'backup.restore' }, { action: 'backup.take', actor: { id: 'admin' } }]);
    await restored.close();
  });

  test('has every reading that was acknowledged before it began, taken while readings flow', async () => {
    const live = await LiveServer.start();
    const token = await live.createDevice('pump');
    const device = await live.connect('pump', token);
    let acknowledged = 0;
    let isEnough = false;
    const flow = async (lane: number): Promise<void> => {
      for (let n = 0; !isEnough; n += 1) {
        await device.publish('telemetry', { ts: Date.now() - 1_000, values: { [`lane${lane}`]: n } });
        acknowledged += 1;
      }
    };
    const flowing = Promise.all([0, 1, 2, 3].map(flow));
    while (acknowledged < 500) await new Promise(setImmediate);
    const before = acknowledged;
    const file = await backUp(live, folder);
    isEnough = true;
    await flowing;
    await device.end();
    await live.close();

    const restored = await startOn(file);
    // A query of the past waits until what is in the journal is shipped.
    let found = 0;
    for (const lane of [0, 1, 2, 3]) {
      const path = `/v1/devices/pump/telemetry?metric=lane${lane}&fn=last`;
      const { points } = (await restored.request<{ points: { last: number }[] }>('GET', path)).body;
      found += (points[0]?.last ?? -1) + 1;
    }
    expect(found).toBeGreaterThanOrEqual(before);
    await restored.close();
  });

  test('gives no hand-over number again, though the clock is behind the one of the backup, and refuses cursors of a future it does not know', async () => {
    const clock = new TestClock(NOW);
    const live = await LiveServer.start({}, clock);
    const token = await live.createDevice('pump');
    const file = await backUp(live, folder);
    clock.advance(3_600_000);
    const later = await live.issue('pump', { name: 'later', params: {} });
    const { body } = await live.request<{ cursor: string }>('GET', '/v1/device/commands', { credential: token });
    expect((await live.command(later.id)).state).toBe('sent');
    await live.close();

    const earlier = new TestClock(NOW - 1_000);
    const restored = await startOn(file, earlier);
    const own = await restored.issue('pump', { name: 'own', params: {} });
    expect(uuidV7Ms(own.id)).toBeGreaterThanOrEqual(NOW);
    const poll = (query: string) =>
      restored.request<{ cursor: string }>('GET', `/v1/device/commands${query}`, { credential: token });
    expectProblem(await poll(`?since=${body.cursor}`), 'invalid_cursor', 'query.since');
    const { body: pulled } = await poll('');
    expect((await restored.command(own.id)).state).toBe('sent');
    expect((await poll(`?since=${pulled.cursor}`)).status).toBe(204);
    expect((await restored.command(own.id)).state).toBe('delivered');
    await restored.close();
  });
});

describe('a data folder', () => {
  test('that holds something is left alone, with a way out', async () => {
    const live = await LiveServer.start();
    await live.createDevice('pump');
    const file = await backUp(live, folder);
    await live.stop();
    await expect(restoreBackup(file, live.dataDir, new TestClock(NOW))).rejects.toThrow(/state is there; move it away/);
    await live.restart();
    expect((await live.request('GET', '/v1/devices/pump')).status).toBe(200);
    await live.close();
  });

  test('in which a restore was cut short takes no server, only the restore again', async () => {
    const live = await LiveServer.start();
    await live.createDevice('pump');
    const file = await backUp(live, folder);
    await live.close();
    const dataDir = join(folder, 'restored');
    // As a crash leaves it between the two renames.
    await mkdir(restoringFolder(dataDir), { recursive: true });
    await mkdir(join(dataDir, 'history'));
    await writeFile(join(dataDir, 'history', 'half'), 'x');
    await expect(prepareDataFolder(dataDir)).rejects.toThrow(/restore into .* was cut short; start with --restore/);
    await expect(LiveServer.start({ dataDir })).rejects.toThrow(/cut short/);
    const restored = await startOn(file);
    expect((await restored.request('GET', '/v1/devices/pump')).status).toBe(200);
    expect(readdirSync(dataDir).toSorted()).toEqual(['history', 'state']);
    await restored.close();
  });
});

test('the arguments --restore and --recover exclude each other, and what is unknown is named', () => {
  expect(readArguments(['--restore', 'x.ndjson'])).toEqual({ recover: false, restore: 'x.ndjson', help: false });
  expect(readArguments([])).toEqual({ recover: false, restore: undefined, help: false });
  for (const args of [['--restore'], ['--restore', ''], ['--restore', 'x', '--recover'], ['--port'], ['x']]) {
    expect(() => readArguments(args), args.join(' ')).toThrow(ArgumentError);
  }
});

test('the report says what came back and what is lost', () => {
  const holds = ['state', 'history'] as const;
  const text = restoreReport({ file: 'f', madeAt: '2026-01-01T00:00:00.000Z', downlink: '0.1.0', holds, entries: 5, bytes: 9 });
  expect(text).toMatch(/2026-01-01T00:00:00.000Z: 5 entries of State and of the embedded History/);
  expect(text).toMatch(/revoke them again/);
});
