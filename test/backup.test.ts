import { execFile } from 'node:child_process';
import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ArgumentError, readArguments } from '../broker/arguments.ts';
import { Backups } from '../broker/backup/backups.ts';
import { backupOf, readBackup, type BackupEntry } from '../broker/backup/backup-file.ts';
import { prepareDataFolder, restoringFolder, stateFolder } from '../broker/data-folder.ts';
import { Metrics } from '../broker/metrics.ts';
import { restoreBackup, restoreReport } from '../broker/backup/restore.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { uuidV7Ms } from '../devices/uuid-v7.ts';
import { startServer } from '../server.ts';
import { eventually, expectProblem, keyFor } from './api-support.ts';
import { ADMIN_KEY, LiveServer, TestClock } from './live-server.ts';

/** Backup of a server that goes on working, and what comes of restoring it. */
const NOW = Date.UTC(2026, 0, 1);
let folder = '';

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-backup-'));
});

afterEach(() => rm(folder, { recursive: true, force: true }));

/** The backup as a file. */
async function backUp(server: LiveServer, query = ''): Promise<string> {
  const response = await fetch(`${server.url}/v1/backup${query}`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
  expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/x-ndjson']);
  const file = join(folder, 'backup.ndjson');
  await writeFile(file, Buffer.from(await response.arrayBuffer()));
  return file;
}

/** A server that starts on the backup, in a folder of its own. */
function startOn(file: string, clock: { now(): number } = { now: () => Date.now() }): Promise<LiveServer> {
  return LiveServer.start({ dataDir: join(folder, 'restored') }, clock, async (config, given) => {
    const isFirst = !existsSync(stateFolder(config.dataDir));
    if (!isFirst) return startServer(config, given);
    return startServer(config, given, { restored: await restoreBackup(file, config.dataDir, given) });
  });
}

async function entriesOf(file: string): Promise<BackupEntry[]> {
  const entries: BackupEntry[] = [];
  for await (const entry of readBackup(createReadStream(file))) entries.push(entry);
  return entries;
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
    const file = await backUp(live);
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
    const file = await backUp(live);
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
    const file = await backUp(live);
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

  test('without History when asked for that', async () => {
    const live = await LiveServer.start();
    const token = await live.createDevice('pump');
    await live.request('POST', '/v1/device/telemetry', { credential: token, body: { n: 1 } });
    await live.request('GET', '/v1/devices/pump/telemetry?metric=n');
    const stores = new Set((await entriesOf(await backUp(live))).map(({ store }) => store));
    expect([...stores].toSorted()).toEqual(['history', 'state']);
    const without = new Set((await entriesOf(await backUp(live, '?history=false'))).map(({ store }) => store));
    expect([...without]).toEqual(['state']);
    await live.close();
  });

  test('is of one moment: what was committed together is in it together, however long it takes to read', async () => {
    const clock = new TestClock(NOW);
    const state = await LevelState.open({ folder: join(folder, 'state'), journalBytesMax: 1e6, clock });
    const put = (n: number) => state.commit([{ put: 'a', value: `${n}` }, { put: 'z', value: `${n}` }, ...fillerOf(n)], []);
    await put(1);
    const snapshot = state.snapshot();
    const chunks = backupOf([{ name: 'state', snapshot }], { madeAt: '', downlink: '' });
    await chunks.next();
    for (let n = 2; n < 20; n += 1) await put(n);
    let text = '';
    for await (const chunk of chunks) text += chunk.toString();
    expect(text.match(/\["state","[az]","\d+"\]/g)).toEqual(['["state","a","1"]', '["state","z","1"]']);
    await snapshot.close();
    await state.close();

    function fillerOf(n: number): { put: string; value: string }[] {
      return Array.from({ length: 500 }, (_, i) => ({ put: `m/${n}/${i}`, value: 'x'.repeat(500) }));
    }
  });
});

describe('a file that is not a whole backup', () => {
  let whole = Buffer.alloc(0);

  beforeAll(async () => {
    const live = await LiveServer.start();
    await live.createDevice('pump');
    const response = await fetch(`${live.url}/v1/backup`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
    whole = Buffer.from(await response.arrayBuffer());
    await live.close();
  });

  const reading = async (octets: Buffer, chunkBytes = 100): Promise<number> => {
    async function* chunks(): AsyncGenerator<Buffer> {
      for (let at = 0; at < octets.length; at += chunkBytes) yield octets.subarray(at, at + chunkBytes);
    }
    let entries = 0;
    for await (const _ of readBackup(chunks())) entries += 1;
    return entries;
  };

  test('is told from a whole one wherever it is cut', async () => {
    expect(await reading(whole)).toBeGreaterThan(3);
    for (let bytes = 0; bytes < whole.length; bytes += bytes < whole.length - 150 ? 97 : 1) {
      await expect(reading(whole.subarray(0, bytes)), `cut at ${bytes}`).rejects.toThrow(/cut short|empty|no backup/);
    }
  });

  test('is told from a whole one whatever octet of it is another', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: whole.length - 1 }),
        fc.integer({ min: 1, max: 255 }),
        fc.integer({ min: 1, max: 5_000 }),
        async (at, flip, chunkBytes) => {
          const damaged = Buffer.from(whole);
          damaged[at] = (damaged[at] ?? 0) ^ flip;
          await expect(reading(damaged, chunkBytes)).rejects.toThrow(/^(is|has|goes) /);
        },
      ),
      { numRuns: 300 },
    );
  });

  test.each([
    ['joined of two', () => Buffer.concat([whole, whole]), 'goes on after its end'],
    ['empty', () => Buffer.alloc(0), 'is empty'],
    ['another file', () => Buffer.from('{"some":"json"}\n'), "is no backup of Downlink's"],
    ['of a later format', () => Buffer.from(whole.toString().replace('"version":1', '"version":2')), 'use a newer one'],
  ])('%s is refused with a word why, and leaves nothing behind', async (_, octets, word) => {
    const file = join(folder, 'file');
    const dataDir = join(folder, 'data');
    await writeFile(file, octets());
    await expect(restoreBackup(file, dataDir, new TestClock(NOW))).rejects.toThrow(word);
    expect(readdirSync(dataDir)).toEqual([]);
  });

  test('that is not there is refused, and leaves nothing behind', async () => {
    const dataDir = join(folder, 'data');
    await expect(restoreBackup(join(folder, 'nothing'), dataDir, new TestClock(NOW))).rejects.toThrow(/nothing.*ENOENT/);
    expect(readdirSync(dataDir)).toEqual([]);
  });
});

describe('a data folder', () => {
  test('that holds something is left alone, with a way out', async () => {
    const live = await LiveServer.start();
    await live.createDevice('pump');
    const file = await backUp(live);
    await live.stop();
    await expect(restoreBackup(file, live.dataDir, new TestClock(NOW))).rejects.toThrow(/state is there; move it away/);
    await live.restart();
    expect((await live.request('GET', '/v1/devices/pump')).status).toBe(200);
    await live.close();
  });

  test('in which a restore was cut short takes no server, only the restore again', async () => {
    const live = await LiveServer.start();
    await live.createDevice('pump');
    const file = await backUp(live);
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

describe('GET /v1/backup', () => {
  let server: LiveServer;

  beforeAll(async () => {
    server = await LiveServer.start();
    // More than sockets and streams hold between them.
    const token = await server.createDevice('pump');
    const [filler, at] = ['x'.repeat(1_000), Date.now()];
    for (let n = 0; n < 150; n += 1) {
      const values = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`m${i}`, filler + n]));
      const body = Array.from({ length: 4 }, (_, i) => ({ ts: at - n * 10 - i, values }));
      await server.request('POST', '/v1/device/telemetry', { credential: token, body });
    }
  });

  afterAll(() => server.close());

  /** A backup whose answer is read so far and no further. */
  async function begun(credential = ADMIN_KEY) {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    socket.on('error', () => {});
    socket.write(`GET /v1/backup HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${credential}\r\n\r\n`);
    await once(socket, 'readable');
    return socket;
  }

  test('is for admins alone', async () => {
    for (const role of ['viewer', 'operator'] as const) {
      const { secret } = await keyFor(server, role);
      expectProblem(await server.request('GET', '/v1/backup', { credential: secret }), 'forbidden');
    }
  });

  test('makes one at a time; another is told when to come again, and may once the first one’s reader is gone', async () => {
    const socket = await begun();
    const second = await server.request('GET', '/v1/backup');
    expectProblem(second, 'rate_limited');
    expect(Number(second.headers.get('retry-after'))).toBeGreaterThan(0);
    socket.destroy();
    for (;;) {
      const third = await begun();
      const said = String(third.read());
      third.destroy();
      if (said.startsWith('HTTP/1.1 200')) break;
      expect(said).toContain('429');
    }
  });

  test('breaks off when its key is revoked', async () => {
    const { id, secret } = await keyFor(server, 'admin');
    for (;;) {
      const socket = await begun(secret);
      if (String(socket.read()).startsWith('HTTP/1.1 200')) {
        expect((await server.request('DELETE', `/v1/keys/${id}`)).status).toBe(204);
        let last: Buffer = Buffer.alloc(0);
        socket.on('data', (chunk: Buffer) => (last = chunk));
        await once(socket, 'close');
        expect(last.toString()).not.toContain('"sha256"');
        return;
      }
      socket.destroy();
    }
  });

  test('of which nobody reads on is given up, and the next may begin', async () => {
    const clock = new TestClock(NOW);
    const [metrics, log] = [new Metrics(), pino({ level: 'silent' })];
    const state = await LevelState.open({ folder: join(folder, 'state'), journalBytesMax: 1e6, clock });
    const filler = Array.from({ length: 2_000 }, (_, n) => ({ put: `k/${n}`, value: 'x'.repeat(500) }));
    await state.commit(filler, []);
    const history = { snapshot: () => undefined };
    const backups = new Backups({ state, history, metrics, clock, log, version: '0' }, 20);
    const stream = backups.begin({ withHistory: true });
    stream.once('readable', () => void stream.read());
    const [error] = (await once(stream, 'error')) as [Error];
    expect(error.message).toContain('nobody has read on');
    await eventually(async () => (backups.isGoingOn ? undefined : true));
    backups.begin({ withHistory: true }).destroy();
    await eventually(async () => (backups.isGoingOn ? undefined : true));
    await state.close();
  });

  test('is counted with its time when it was read to its end', async () => {
    const metric = async (): Promise<number> => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      return Number(/^downlink_last_backup_timestamp_seconds ([\d.e+]+)$/m.exec(text)?.[1]);
    };
    expect(await metric()).toBe(0);
    const from = Date.now() / 1_000;
    for (;;) {
      const response = await fetch(`${server.url}/v1/backup`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
      const text = await response.text();
      if (response.status !== 200) continue;
      expect(text.trimEnd().split('\n').at(-1)).toMatch(/^\{"entries":\d+,"sha256":"[0-9a-f]{64}"\}$/);
      break;
    }
    expect(await metric()).toBeGreaterThanOrEqual(from - 0.001);
  });

  test('by `npm run backup` ends up whole in a file that only its owner reads, or leaves the old one', async () => {
    const file = join(folder, 'nightly', 'backup.ndjson');
    const { stdout } = await program(['--to', file, '--url', server.url], ADMIN_KEY);
    expect(stdout).toMatch(/backup\.ndjson: \d+ entries, [\d.]+ MB, state and history as of .*Z; whole\n$/);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    const kept = await readFile(file);
    expect((await entriesOf(file)).length).toBeGreaterThan(3);
    const refused = await program(['--to', file, '--url', server.url], 'wrong-key-0123456789').catch(
      (error: { stderr: string; code: number }) => error,
    );
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/answered 401 unauthorized/) });
    expect(kept.equals(await readFile(file))).toBe(true);
    expect(readdirSync(join(folder, 'nightly'))).toEqual(['backup.ndjson']);
  });

  function program(args: string[], key: string): Promise<{ stdout: string; stderr: string }> {
    const root = join(import.meta.dirname, '..');
    return promisify(execFile)(process.execPath, [join(root, 'dist/broker/backup/fetch-backup.js'), ...args], {
      env: { ...process.env, DOWNLINK_ADMIN_KEY: key },
    });
  }
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
