import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Backups } from '../broker/backup/backups.ts';
import { Metrics } from '../broker/metrics.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { eventually, expectProblem, keyFor } from './api-support.ts';
import { ADMIN_KEY, LiveServer, TestClock } from './live-server.ts';
import { backUp, entriesOf } from './taken-backup.ts';

/** Backup of a server that goes on working: who may take one, how many at a time, and what becomes of one that is not read. */
const NOW = Date.UTC(2026, 0, 1);
let folder = '';

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-backup-'));
});

afterEach(() => rm(folder, { recursive: true, force: true }));

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

  test('is without History when asked for that', async () => {
    await server.request('GET', '/v1/devices/pump/telemetry?metric=m0&limit=1');
    const stores = new Set((await entriesOf(await backUp(server, folder))).map(({ store }) => store));
    expect([...stores].toSorted()).toEqual(['history', 'state']);
    const without = new Set((await entriesOf(await backUp(server, folder, '?history=false'))).map(({ store }) => store));
    expect([...without]).toEqual(['state']);
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

  test.each([
    [{ DOWNLINK_HTTP_PORT: '9' }, 'http://127.0.0.1:9/'],
    [{ DOWNLINK_HTTP_PORT: '9', DOWNLINK_HOST: '0.0.0.0' }, 'http://127.0.0.1:9/'],
    [{ DOWNLINK_HTTP_PORT: '9', DOWNLINK_HOST: '::' }, 'http://[::1]:9/'],
    [{ DOWNLINK_HTTP_PORT: 'off', DOWNLINK_HTTPS_PORT: '9' }, 'https://127.0.0.1:9/'],
  ])('by `npm run backup` is fetched from where %j says that the server is', async (environment, url) => {
    const { stderr } = await program(['--to', join(folder, 'x')], ADMIN_KEY, environment).catch(
      (error: { stderr: string }) => error,
    );
    expect(stderr).toContain(`${url}v1/backup cannot be reached`);
  });

  function program(
    args: string[],
    key: string,
    environment: Record<string, string> = {},
  ): Promise<{ stdout: string; stderr: string }> {
    const root = join(import.meta.dirname, '..');
    return promisify(execFile)(process.execPath, [join(root, 'dist/broker/backup/fetch-backup.js'), ...args], {
      env: { ...process.env, DOWNLINK_ADMIN_KEY: key, ...environment },
    });
  }
});
