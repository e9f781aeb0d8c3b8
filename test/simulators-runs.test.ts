import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runFleet } from '../simulators/fleet/fleet.ts';
import type { Pace } from '../simulators/fleet/limits.ts';
import type { FleetOptions, ReplayOptions } from '../simulators/options.ts';
import { replay } from '../simulators/replay/replay.ts';
import { Screen } from '../simulators/screen.ts';
import { newSeed } from './faulty-network.ts';
import { ADMIN_KEY, LiveServer } from './live-server.ts';

let server: LiveServer;
let folder: string;
let nth = 0;

beforeAll(async () => {
  server = await LiveServer.start();
  folder = await mkdtemp(join(tmpdir(), 'downlink-runs-'));
});

afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

function serverOptions() {
  return { url: server.url, mqttUrl: `mqtt://127.0.0.1:${server.mqttPort}`, dataDir: folder, adminKey: ADMIN_KEY };
}

/** A screen that is no terminal, and what was said on it. */
function paper(): { screen: Screen; text: () => string } {
  let text = '';
  return { screen: new Screen({ write: (more) => (text += more) }), text: () => text };
}

const never = new AbortController().signal;

const BRISK: Pace = {
  leaseSeconds: 1,
  wakeSeconds: [1, 2],
  pushBeatMs: 200,
  waitSeconds: 2,
  keepaliveSeconds: 4,
  awayMsMin: 500,
  awayMsMax: 3_000,
  reportSeconds: 4,
  reportSecondsShort: 1,
  lateMsMin: 500,
  lateMsMax: 2_000,
};

function options(more: Partial<FleetOptions>): FleetOptions {
  return { server: serverOptions(), push: 4, sleepy: 4, seconds: 3, seed: 1, faults: 0, rate: 40, ...more };
}

describe('the fleet', () => {
  test('comes out clean in a world full of faults', { timeout: 240_000 }, async () => {
    const { screen, text } = paper();
    const clean = await runFleet(options({ faults: 0.2, seed: 20 }), screen, { enough: never, now: never, pace: BRISK });
    expect(text()).toContain('Clean: every command ended as its device says');
    expect(text()).toMatch(/executed twice: 0\n/);
    expect(text()).toMatch(/MQTT cut before PUBACK +\d/);
    expect(text()).toMatch(/HTTP answer lost +\d/);
    expect(clean, text()).toBe(true);
  });

  test('of every way comes out clean when three of ten are lost on every leg', { timeout: 240_000 }, async () => {
    const seed = newSeed();
    const { screen, text } = paper();
    const mixed = options({ push: 2, sleepy: 2, sync: 2, 'long-poll': 2, sse: 2, hybrid: 2, faults: 0.3, seed, rate: 20 });
    const clean = await runFleet(mixed, screen, { enough: never, now: never, pace: BRISK });
    expect(text(), `seed ${seed}`).toContain('Clean: every command ended as its device says');
    expect(text()).toMatch(/executed twice: 0\n/);
    for (const fault of ['MQTT away', 'HTTP request lost', 'HTTP answer lost', 'MQTT cut after a publish'])
      expect(text()).toMatch(new RegExp(`${fault} +\\d`));
    expect(text()).toMatch(/ push +sleepy +hybrid +sse +long-poll +sync +all\n/);
    expect(clean, text()).toBe(true);
  });

  test('is told to stop early, and still reckons; the same seed takes its devices over', async () => {
    const enough = new AbortController();
    const { screen, text } = paper();
    const run = runFleet(options({ seconds: 3_600, seed: 21 }), screen, { enough: enough.signal, now: never, pace: BRISK });
    await expect.poll(async () => (await server.request<Listed>('GET', '/v1/devices')).body.devices.length).toBeGreaterThan(0);
    await expect.poll(text, { timeout: 30_000, interval: 200 }).toContain('commands/s');
    enough.abort();
    expect(await run, text()).toBe(true);
    expect(text()).toContain('Reckoning');
    const again = paper();
    const isClean = await runFleet(options({ seconds: 1, seed: 21 }), again.screen, { enough: never, now: never, pace: BRISK });
    expect(isClean, again.text()).toBe(true);
  });

  test('says in one line that there is no server, no key, or another key', async () => {
    const run = (more: Partial<FleetOptions['server']>, adminKey: string | undefined = ADMIN_KEY) => {
      const { adminKey: _, ...rest } = serverOptions();
      return runFleet(options({ server: { ...rest, ...(adminKey !== undefined && { adminKey }), ...more } }), paper().screen, {
        enough: never,
        now: never,
      });
    };
    await expect(run({ url: 'http://127.0.0.1:9' })).rejects.toThrow('No server answers at http://127.0.0.1:9');
    await expect(run({ mqttUrl: 'mqtt://127.0.0.1:9' })).rejects.toThrow('MQTT does not answer at mqtt://127.0.0.1:9');
    await expect(run({ adminKey: 'another' })).rejects.toThrow('does not know this admin key');
    const { adminKey: _, ...keyless } = serverOptions();
    await expect(runFleet(options({ server: keyless }), paper().screen, { enough: never, now: never })).rejects.toThrow(
      'No admin key',
    );
  });
});

type Listed = { devices: { id: string }[] };
type Windows = { points: { count: number; mean: number; min: number; max: number }[] };

async function recording(rows: readonly string[]): Promise<string> {
  nth += 1;
  const path = join(folder, `recording-${nth}.csv`);
  await writeFile(path, `timestamp,value\n${rows.join('\n')}\n`);
  return path;
}

async function run(file: string, device: string, more: Partial<ReplayOptions> = {}): Promise<string> {
  const { screen, text } = paper();
  const options = { server: serverOptions(), file, device, metric: 'temperature', rotateToken: false, ...more };
  expect(await replay(options, screen, never)).toBe(true);
  return text();
}

/** What the address of the printed curl line answers. */
async function asPrinted(text: string, count: number): Promise<Windows['points'][0]> {
  const path = /'http:\/\/[^/]+(\/[^']+)'/.exec(text)?.[1] ?? 'no address was printed';
  for (;;) {
    const { body } = await server.request<Windows>('GET', path);
    if (body.points[0] !== undefined && body.points[0].count >= count) return body.points[0];
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const hourly = Array.from({ length: 2_345 }, (_, i) => {
  const time = new Date(Date.UTC(2013, 6, 4) + i * 3_600_000).toISOString().slice(0, 19).replace('T', ' ');
  return `${time},${(70 + Math.sin(i) * 5).toFixed(8)}`;
});

describe('the replay', () => {
  test('stores a recording with its own times, and the same again when it is sent again', async () => {
    const file = await recording(hourly);
    const values = hourly.map((row) => Number(row.split(',')[1]));
    const mean = values.reduce((a, b) => a + b) / values.length;
    const first = await run(file, 'office');
    expect(first).toContain('Made the device office.');
    expect(first).toMatch(/Sent 2,345 rows .* as temperature of office/);
    for (const text of [first, await run(file, 'office')]) {
      const found = await asPrinted(text, values.length);
      expect(found).toMatchObject({ count: values.length, min: Math.min(...values), max: Math.max(...values) });
      expect(Math.abs(found.mean - mean) / mean).toBeLessThan(1e-9);
    }
    const { body } = await server.request<{ points: { time: string; value: number }[] }>(
      'GET',
      '/v1/devices/office/telemetry?metric=temperature&from=0&limit=1',
    );
    expect(body.points).toEqual([{ time: '2013-07-04T00:00:00.000Z', value: values[0] }]);
  });

  test('of rows with one time the last one is stored, in whatever order they come', async () => {
    const text = await run(await recording(['1500000003,1', '1500000001,5', '1500000001,7', '1500000003,2']), 'shuffled');
    expect(text).toContain('distinct times  2 (2 rows repeat a time; the last of them counts)');
    expect(await asPrinted(text, 2)).toMatchObject({ count: 2, mean: 4.5, min: 2, max: 7 });
  });

  test('keeps the token it made for its owner alone, and uses it again', async () => {
    const file = await recording(['1500000001,5']);
    await run(file, 'kept');
    const tokens = join(folder, 'simulated-devices.json');
    expect((await stat(tokens)).mode & 0o777).toBe(0o600);
    expect(await readFile(tokens, 'utf8')).toContain('kept');
    expect(await run(file, 'kept')).not.toContain('token');
  });

  test('gives a device that was never heard of a new token, and widens its limits', async () => {
    const file = await recording(['1500000001,5']);
    await server.createDevice('made-by-hand', { limits: { leaseSeconds: 7 } });
    const text = await run(file, 'made-by-hand');
    expect(text).toContain('made-by-hand was never heard of; it has a new token.');
    expect(text).toContain('made-by-hand now takes readings from 2017-07-14T02:40:01.000Z on');
    expect(await asPrinted(text, 1)).toMatchObject({ count: 1 });
    const { body } = await server.request<{ limits: object }>('GET', '/v1/devices/made-by-hand');
    expect(body.limits).toMatchObject({ leaseSeconds: 7 });
  });

  test('leaves a device in use alone, unless it is given its token or told to rotate it', async () => {
    const file = await recording(['1500000001,5']);
    const token = await server.createDevice('in-use');
    await server.request('POST', '/v1/device/telemetry', { credential: token, body: { temperature: 1 } });
    await expect(run(file, 'in-use')).rejects.toThrow('in-use is in use');
    await run(file, 'in-use', { token });
    await expect(run(file, 'in-use', { token: 'dld_wrong' })).rejects.toThrow('refuses the token');
    expect(await run(file, 'in-use', { rotateToken: true })).toContain('in-use has a new token.');
  });

  test('sends nothing, and makes no device, when a row is bad', async () => {
    const file = await recording(['1500000001,5', '1500000002,six']);
    await expect(run(file, 'untouched')).rejects.toThrow('row 2 (line 3): value "six" is not a number');
    expect((await server.request('GET', '/v1/devices/untouched')).status).toBe(404);
  });

  test('at a speed, sends each reading at its time', async () => {
    const file = await recording(['1500000000,1', '1500000010,2', '1500000020,3']);
    const text = await run(file, 'paced', { speed: 100 });
    expect(await asPrinted(text, 3)).toMatchObject({ count: 3, mean: 2 });
    const shuffled = await recording(['1500000010,2', '1500000000,1']);
    await expect(run(shuffled, 'paced', { speed: 100 })).rejects.toThrow('--speed needs rows in time order; row 2 is earlier');
  });

  test('true and false, and texts, are stored as such', async () => {
    const text = await run(await recording(['1500000001,true', '1500000002,false']), 'switch', { metric: 'open' });
    expect(text).toContain('fn=count,last');
    expect(await asPrinted(text, 2)).toMatchObject({ count: 2, last: false });
    const words = await run(await recording(['1500000001,eco', '1500000002,"boost, high"']), 'switch', {
      metric: 'mode',
      type: 'string',
    });
    expect(await asPrinted(words, 2)).toMatchObject({ count: 2, last: 'boost, high' });
  });
});
