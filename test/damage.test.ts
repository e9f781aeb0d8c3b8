import { cp, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClassicLevel } from 'classic-level';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { StartError } from '../broker/data-folder.ts';
import { openLevel } from '../broker/store/level/open-level.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { startServer, type Server } from '../server.ts';
import { ADMIN_KEY, configOn, LiveServer } from './live-server.ts';

/** Data folders with flipped octets, torn and missing files: a whole server starts on each and keeps what can be read. */
const SEEDS = Number(process.env['DAMAGE_SEEDS'] ?? 24);
const DEVICES = 60;
const READINGS_A_DEVICE = 20;
const T = Date.now() - 3_600_000;

let base: string;
let crashed: string;
let stopped: string;

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'downlink-damage-'));
  crashed = join(base, 'crashed');
  stopped = join(base, 'stopped');
  const server = await LiveServer.start();
  for (let i = 0; i < DEVICES; i += 1) {
    const token = await server.createDevice(deviceId(i), { labels: { site: `site-${i}` } });
    const readings = Array.from({ length: READINGS_A_DEVICE }, (_, n) => ({ ts: T + n, values: { x: i + n / 100 } }));
    await server.request('POST', '/v1/device/telemetry', { credential: token, body: readings });
    await server.issue(deviceId(i), { name: 'set', params: { i } });
  }
  await countReadings(server.url, deviceId(DEVICES - 1));
  await cp(server.dataDir, crashed, { recursive: true });
  // Opened once more, what the log held is in tables.
  await server.restart();
  await server.restart();
  await cp(server.dataDir, stopped, { recursive: true });
  await server.close();
});
afterAll(() => rm(base, { recursive: true, force: true }));

function deviceId(i: number): string {
  return `device-${String(i).padStart(3, '0')}`;
}

async function request<T>(url: string, path: string): Promise<T> {
  const response = await fetch(url + path, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return (await response.json()) as T;
}

async function countReadings(url: string, id: string): Promise<number> {
  const { points } = await request<{ points: unknown[] }>(url, `/v1/devices/${id}/telemetry?metric=x&from=${T - 1}`);
  return points.length;
}

type Found = { devices: number; commands: number; readings: number; wrong: number; losses: number };

async function startOn(dataDir: string): Promise<Server> {
  return startServer(configOn(dataDir));
}

async function look(server: Server): Promise<Found> {
  const url = `http://127.0.0.1:${server.httpPort}`;
  const found: Found = { devices: 0, commands: 0, readings: 0, wrong: 0, losses: 0 };
  const { devices } = await request<{ devices: { id: string }[] }>(url, '/v1/devices?limit=1000');
  for (const { id } of devices) {
    const i = Number(id.slice(-3));
    found.devices += 1;
    const { points } = await request<{ points: { value: number }[] }>(url, `/v1/devices/${id}/telemetry?metric=x&from=${T - 1}`);
    found.readings += points.length;
    found.wrong += points.filter(({ value }) => Math.abs(value - i) > 1).length;
    const list = await request<{ commands: { params: { i: number } }[] }>(url, `/v1/devices/${id}/commands`);
    found.commands += list.commands.length;
    found.wrong += list.commands.filter(({ params }) => params.i !== i).length;
  }
  const metrics = await (await fetch(`${url}/metrics`)).text();
  found.losses = Number(/^downlink_damage_total (\d+)/m.exec(metrics)?.[1]);
  return found;
}

function randomOf(seed: number): () => number {
  let state = seed * 2_654_435_761;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 2_246_822_519) + 0x9e3779b9) | 0;
    return ((state ^ (state >>> 13)) >>> 0) / 2 ** 32;
  };
}

async function copyOf(folder: string): Promise<string> {
  const copy = await mkdtemp(join(base, 'copy-'));
  await cp(folder, copy, { recursive: true });
  return copy;
}

async function dataFiles(dataDir: string): Promise<string[]> {
  const files: string[] = [];
  for (const folder of ['state', 'history']) {
    for (const name of await readdir(join(dataDir, folder))) {
      const file = join(dataDir, folder, name);
      if (name !== 'LOCK' && !name.startsWith('LOG') && (await stat(file)).size > 0) files.push(file);
    }
  }
  return files;
}

describe('flipped octets', () => {
  for (const [name, source] of [
    ['a crashed', (): string => crashed],
    ['a stopped', (): string => stopped],
  ] as const) {
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      test(`in ${name} server's folder, seed ${seed}: it starts, keeps what can be read, invents nothing, tells of losses`, async () => {
        const random = randomOf(seed);
        const dataDir = await copyOf(source());
        const files = await dataFiles(dataDir);
        const flips = 1 + Math.floor(random() * 3);
        for (let i = 0; i < flips; i += 1) {
          const file = files[Math.floor(random() * files.length)] ?? '';
          const octets = await readFile(file);
          const at = Math.floor(random() * octets.length);
          octets[at] = (octets[at] ?? 0) ^ (1 << Math.floor(random() * 8));
          await writeFile(file, octets);
        }
        const server = await startOn(dataDir);
        const found = await look(server);
        await server.close();
        expect(found.wrong, JSON.stringify(found)).toBe(0);
        expect(found.losses, JSON.stringify(found)).toBeGreaterThan(0);
        // A flip takes a write of the log, or a block of a table: some of the devices, never most of them.
        expect(found.devices, JSON.stringify(found)).toBeGreaterThan(DEVICES / 2);

        const again = await startOn(dataDir);
        const second = await look(again);
        await again.close();
        expect(second).toEqual({ ...found, losses: 0 });
        await rm(dataDir, { recursive: true });
      });
    }
  }
});

describe('what is torn or missing', () => {
  test('a log cut anywhere costs what was written behind the cut, and no more', async () => {
    for (let seed = 1; seed <= 8; seed += 1) {
      const dataDir = await copyOf(crashed);
      const log = (await dataFiles(dataDir)).find((file) => /state.*\.log$/.test(file)) ?? '';
      const { size } = await stat(log);
      const at = Math.floor(randomOf(seed)() * size);
      await truncate(log, at);
      const server = await startOn(dataDir);
      const found = await look(server);
      await server.close();
      expect(found.wrong).toBe(0);
      expect(found.devices).toBeGreaterThanOrEqual(Math.floor((DEVICES * at) / size) - 2);
    }
  });

  for (const name of ['CURRENT', 'MANIFEST'] as const) {
    test(`${name} gone: the folder is repaired rather than taken for a new one, and kept aside as it was`, async () => {
      const dataDir = await copyOf(stopped);
      for (const file of await dataFiles(dataDir)) if (file.includes(name)) await rm(file);
      const server = await startOn(dataDir);
      const found = await look(server);
      await server.close();
      expect(found).toMatchObject({ devices: DEVICES, commands: DEVICES, readings: DEVICES * READINGS_A_DEVICE, wrong: 0 });
      expect(found.losses).toBeGreaterThan(0);
      expect((await readdir(dataDir)).filter((entry) => entry.startsWith('state.damaged-'))).toHaveLength(1);
    });
  }

  test('a table gone: the rest is there', async () => {
    const dataDir = await copyOf(stopped);
    const table = (await dataFiles(dataDir)).find((file) => /history.*\.ldb$/.test(file)) ?? '';
    await rm(table);
    const server = await startOn(dataDir);
    const found = await look(server);
    await server.close();
    expect(found).toMatchObject({ devices: DEVICES, commands: DEVICES });
    expect(found.losses).toBeGreaterThan(0);
  });

  test('nothing readable at all: the server starts empty or says so in one line', async () => {
    const dataDir = await copyOf(crashed);
    for (const file of await dataFiles(dataDir)) await writeFile(file, Buffer.alloc((await stat(file)).size, 0xa5));
    try {
      const server = await startOn(dataDir);
      expect((await look(server)).losses).toBeGreaterThan(0);
      await server.close();
    } catch (error) {
      expect(error).toBeInstanceOf(StartError);
      expect((error as Error).message).not.toContain('\n');
    }
  });
});

describe('the State', () => {
  const open = (folder: string, lines: string[]): Promise<LevelState> =>
    LevelState.open({ folder, journalBytesMax: 1e6, clock: { now: () => T }, onDamage: (line) => lines.push(line) });

  test('a damaged write in the middle of the log costs that write alone, and the line tells its place', async () => {
    const folder = join(base, 'middle');
    const state = await open(folder, []);
    for (let i = 0; i < 100; i += 1)
      await state.commit([{ put: `k/${i}`, value: JSON.stringify(`value-${i}-`) }], [`m f=${i} ${i}`]);
    const copy = join(base, 'middle-copy');
    await cp(folder, copy, { recursive: true });
    await state.close();
    const name = (await readdir(copy)).find((file) => file.endsWith('.log')) ?? '';
    const octets = await readFile(join(copy, name));
    const at = octets.indexOf('value-50-');
    octets[at] = 0;
    await writeFile(join(copy, name), octets);

    const lines: string[] = [];
    const opened = await open(copy, lines);
    const left: string[] = [];
    for await (const [key] of opened.scan('k/')) left.push(key);
    expect(left).toHaveLength(99);
    expect(left).not.toContain('k/50');
    const journal = await opened.journal.read(0, 1e6);
    expect(journal?.lines.toString().split('\n').filter(Boolean)).toHaveLength(99);
    expect(opened.journal.bytes).toBe(journal?.lines.length);
    expect(lines.join('\n')).toMatch(new RegExp(`${name}: \\d+ octets from \\d+ on are damaged`));
    expect(lines.join('\n')).toContain('the journal is missing records');
    await opened.close();
  });

  test('the count of the journal is made anew when it is lost', async () => {
    const folder = join(base, 'count');
    const state = await open(folder, []);
    await state.commit([], ['m f=1 1']);
    await state.commit([], ['m f=2 2']);
    await state.close();
    const db = new ClassicLevel(folder);
    await db.open();
    await db.del('journal-count');
    await db.close();
    const opened = await open(folder, []);
    expect(opened.journal).toMatchObject({ bytes: 16, head: 2 });
    await opened.commit([], ['m f=3 3']);
    expect((await opened.journal.read(0, 1e6))?.lines.toString()).toBe('m f=1 1\nm f=2 2\nm f=3 3\n');
    await opened.close();
  });

  test.each([
    ['the last record', 'the journal is missing records between 1 and 3: 2 are left, 8 octets are gone'],
    ['every record', 'the journal is empty, where 24 octets were counted'],
  ])('of the journal %s gone is told once', async (what, line) => {
    const folder = join(base, `journal without ${what}`);
    const state = await open(folder, []);
    for (let i = 1; i <= 3; i += 1) await state.commit([], [`m f=${i} ${i}`]);
    await state.close();
    const db = new ClassicLevel(folder);
    await db.open();
    const keys = await db.keys({ gt: 'journal/', lt: 'journal/~' }).all();
    for (const key of what === 'every record' ? keys : keys.slice(-1)) await db.del(key);
    await db.close();
    const lines: string[] = [];
    await (await open(folder, lines)).close();
    expect(lines).toEqual([expect.stringContaining(line)]);
    const again: string[] = [];
    await (await open(folder, again)).close();
    expect(again).toEqual([]);
  });

  test('a folder that another process has is left alone, damaged or not', async () => {
    const folder = join(base, 'held');
    const { db } = await openLevel(folder);
    await db.put('k', 'v'.repeat(1_000), { sync: true });
    const name = (await readdir(folder)).find((file) => file.endsWith('.log')) ?? '';
    const octets = await readFile(join(folder, name));
    octets[100] = (octets[100] ?? 0) ^ 1;
    await writeFile(join(folder, name), octets);
    await expect(openLevel(folder)).rejects.toMatchObject({ cause: { code: 'LEVEL_LOCKED' } });
    expect((await readdir(base)).filter((entry) => entry.startsWith('held.damaged'))).toEqual([]);
    await db.close();
  });
});

describe('a value that is no JSON any more', () => {
  test('is put aside and told of, whatever it is of, and the server goes on', async () => {
    const dataDir = await copyOf(stopped);
    const db = new ClassicLevel(join(dataDir, 'state'));
    await db.open();
    const broken: string[] = [];
    for (const prefix of ['command/', 'device/', 'contact/', 'ended/', 'key/', 'idempotency/', 'reject/']) {
      for await (const key of db.keys({ gte: prefix, lt: `${prefix}~`, limit: 1 })) broken.push(key);
    }
    for (const key of broken) await db.put(key, '{"cut sho');
    await db.close();
    expect(broken.length).toBeGreaterThan(2);
    const server = await startOn(dataDir);
    const found = await look(server);
    expect(found.devices).toBe(DEVICES - 1);
    expect(found.losses).toBeGreaterThanOrEqual(broken.length - 1);
    await server.close();
    const after = new ClassicLevel(join(dataDir, 'state'));
    await after.open();
    for (const key of broken.filter((one) => /^(command|device)/.test(one)))
      expect(await after.get(`unreadable/${key}`)).toBe('{"cut sho');
    await after.close();
  });
});
