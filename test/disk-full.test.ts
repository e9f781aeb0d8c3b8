import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmdirSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { LevelState } from '../broker/store/level/level-state.ts';
import { LiveServer } from './live-server.ts';

/** A file system of a few megabytes, where the machine lets us have one. */
function smallFileSystem(): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'downlink-small-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', folder], { stdio: 'ignore' });
    return folder;
  } catch {
    return undefined;
  }
}

const folder = smallFileSystem();

describe.skipIf(folder === undefined)('a full disk', () => {
  test('refuses commits with storage_unavailable, takes them again when there is room, and keeps all it acknowledged', async () => {
    if (folder === undefined) return;
    const open = (): Promise<LevelState> =>
      LevelState.open({ folder: join(folder, 'state'), journalBytesMax: 1e9, clock: { now: () => Date.now() } });
    let state = await open();
    const acknowledged: string[] = [];
    const commit = async (key: string): Promise<void> => {
      await state.commit([{ put: key, value: 'v'.repeat(1_000) }], [`m f="${'x'.repeat(1_000)}" 1`]);
      acknowledged.push(key);
    };
    try {
      await commit('before');
      const filler = join(folder, 'filler');
      await writeFile(filler, Buffer.alloc(64 * 1024 * 1024)).catch(() => {});
      let refusal: unknown;
      for (let i = 0; refusal === undefined; i += 1) await commit(`while-full-${i}`).catch((error: unknown) => (refusal = error));
      expect(refusal).toMatchObject({ code: 'storage_unavailable', retryAfterSeconds: 5 });
      await expect(state.check()).rejects.toMatchObject({ code: 'storage_unavailable' });

      await rm(filler);
      for (;;) {
        const isBack = await commit('after').then(
          () => true,
          () => false,
        );
        if (isBack) break;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      await state.check();
      await state.close();
      state = await open();
      for (const key of acknowledged) expect(await state.get(key), key).toBeDefined();
    } finally {
      await state.close();
      execFileSync('umount', [folder]);
    }
  });

  test('over MQTT ends the connection without the PUBACK; what had one is there afterwards [MQTT-4.8.0-2]', async () => {
    const small = smallFileSystem();
    if (small === undefined) return;
    const dataDir = join(small, 'data');
    mkdirSync(dataDir);
    const server = await LiveServer.start({ dataDir });
    const token = await server.createDevice('pump');
    const acknowledged: number[] = [];
    const filler = join(small, 'filler');
    try {
      let device = await server.connect('pump', token);
      const ballast = 'x'.repeat(1_000);
      const send = async (n: number): Promise<void> => {
        await device.publish('telemetry', { n, ballast });
        acknowledged.push(n);
      };
      await send(0);
      await writeFile(filler, Buffer.alloc(64 * 1024 * 1024)).catch(() => {});
      const closed = device.closed();
      // All at once, so that many are in one write to the disk; those that are not acknowledged stay so.
      for (let n = 1; device.client.connected && n < 100_000; n += 50) {
        const burst = Array.from({ length: 50 }, (_, i) => send(n + i));
        for (const sent of burst) sent.catch(() => {});
        await Promise.race([Promise.all(burst), closed]);
      }
      expect(device.client.connected).toBe(false);
      await device.end();

      await rm(filler);
      let isBack = false;
      while (!isBack) isBack = (await server.request('GET', '/readyz')).status === 200;
      device = await server.connect('pump', token);
      await send(1_000_000);
      const values = new Set<unknown>();
      for (let from = 0; ;) {
        const path = `/v1/devices/pump/telemetry?metric=n&limit=10000&from=${from}`;
        const { points } = (await server.request<{ points: { time: string; value: number }[] }>('GET', path)).body;
        for (const { value } of points) values.add(value);
        if (points.length < 10_000) break;
        from = Date.parse(points.at(-1)?.time ?? '');
      }
      expect(acknowledged.filter((n) => !values.has(n))).toEqual([]);
      await device.end();
    } finally {
      await server.close();
      execFileSync('umount', [small]);
      rmdirSync(small);
    }
  });
});
