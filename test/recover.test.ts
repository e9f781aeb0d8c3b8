import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ArgumentError, readArguments } from '../broker/arguments.ts';
import type { InfluxConfig } from '../broker/config.ts';
import { StartError, stateFolder } from '../broker/data-folder.ts';
import { recoveryReport } from '../broker/recover.ts';
import { startServer, type Server } from '../server.ts';
import { ADMIN_KEY, configOn, LiveServer } from './live-server.ts';
import { INFLUX_AWAY, influxAt, Influxd } from './servers/influxd.ts';
import { isMissing } from './servers/server-paths.ts';

/** A lost State folder: `--recover` builds the open commands again from History, and says what it could not. */
function recovers(history: string, influxOf: () => InfluxConfig): void {
  test(`open commands come back from ${history} as they were, ended ones stay ended, and devices take them`, async () => {
    const influx = influxOf();
    const live = await LiveServer.start({ influx });
    const token = await live.createDevice('pump');
    await live.createDevice('silent');
    const older = await live.issue('silent', { name: 'start', params: { rpm: 900 }, key: 'speed' });
    const queued = await live.issue('silent', {
      name: 'start',
      params: { rpm: 1200 },
      priority: 'urgent',
      key: 'speed',
    });
    const sent = await live.issue('pump', { name: 'sent', params: {} });
    await live.request('GET', '/v1/device/commands', { credential: token });
    const done = await live.issue('pump', { name: 'done', params: {} });
    await live.request('POST', `/v1/device/commands/${done.id}`, { credential: token, body: { state: 'succeeded' } });
    const running = await live.issue('pump', { name: 'running', condition: { metric: 'rpm', op: '<', value: 900 } });
    await live.request('POST', `/v1/device/commands/${running.id}`, {
      credential: token,
      body: { state: 'running', progress: 40 },
    });
    // Hand-overs go on record in a while, or at a stop.
    await live.restart();
    await live.request('POST', '/v1/device/telemetry', { credential: token, body: { x: 1 } });
    // A query of the past waits for what was acknowledged.
    await live.request('GET', '/v1/devices/pump/telemetry?metric=x');

    const config = configOn(live.dataDir, { influx });
    let server: Server | undefined;
    await live.stop();
    await rm(stateFolder(live.dataDir), { recursive: true });
    try {
      server = await startServer(config, undefined, { recover: true });
      expect(server.openCommands).toBe(3);
      expect(server.recovered).toMatchObject({ commands: 3, devices: ['pump', 'silent'] });
      expect(recoveryReport(server.recovered ?? { commands: 0, devices: [], devicesFile: '' })).toContain('3 open commands');
      expect(await readFile(join(live.dataDir, 'recovered-devices.txt'), 'utf8')).toBe('pump\nsilent\n');
      const api = async (path: string, body?: unknown, key = ADMIN_KEY): Promise<Record<string, unknown>> => {
        const response = await fetch(`http://127.0.0.1:${server?.httpPort}${path}`, {
          method: body === undefined ? 'GET' : 'POST',
          headers: { authorization: `Bearer ${key}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
          ...(body !== undefined && { body: JSON.stringify(body) }),
        });
        return (await response.json()) as Record<string, unknown>;
      };
      expect(await api(`/v1/commands/${queued.id}`)).toMatchObject({
        state: 'queued',
        params: { rpm: 1200 },
        priority: 'urgent',
        key: 'speed',
        supersedes: [older.id],
      });
      expect(await api(`/v1/commands/${older.id}`)).toMatchObject({ state: 'superseded', supersededBy: queued.id });
      expect(await api(`/v1/commands/${sent.id}`)).toMatchObject({ state: 'queued', attempts: 1 });
      expect(await api(`/v1/commands/${running.id}`)).toMatchObject({
        state: 'running',
        progress: 40,
        condition: { metric: 'rpm', op: '<', value: 900 },
      });
      expect(await api(`/v1/commands/${done.id}`)).toMatchObject({ state: 'succeeded' });
      const made = await api('/v1/devices', { id: 'silent' });
      const pulled = await api('/v1/device/commands', undefined, String(made['token']));
      expect(pulled['commands']).toMatchObject([{ id: queued.id, name: 'start' }]);
      await server.close();

      await expect(startServer(config, undefined, { recover: true })).rejects.toThrow(/has open commands/);
      server = await startServer(config);
      expect(server.openCommands).toBe(3);
    } finally {
      await server?.close();
      await live.close();
    }
  });
}

describe('with the embedded History', () => {
  recovers('the embedded History', () => ({ enabled: false }));
});

describe.skipIf(isMissing('influxd'))('with InfluxDB', () => {
  let influxd: Influxd;
  let databases = 0;
  const influxOf = (): InfluxConfig => influxAt(influxd.url, `recover${(databases += 1)}`);
  beforeAll(async () => {
    influxd = await Influxd.start();
  });
  afterAll(() => influxd.remove());

  recovers('InfluxDB', influxOf);

  test('an InfluxDB that cannot be asked stops the start with one line', async () => {
    const live = await LiveServer.start();
    await live.stop();
    const start = startServer(configOn(live.dataDir, { influx: INFLUX_AWAY }), undefined, { recover: true });
    await expect(start).rejects.toBeInstanceOf(StartError);
    await live.close();
  });
});

describe('arguments', () => {
  test('are --recover and --help; any other stops the start by name', () => {
    expect(readArguments([])).toMatchObject({ recover: false, help: false });
    expect(readArguments(['--recover'])).toMatchObject({ recover: true, help: false });
    expect(readArguments(['-h'])).toMatchObject({ help: true });
    expect(() => readArguments(['--recover', '--fast'])).toThrow(ArgumentError);
    expect(() => readArguments(['--fast'])).toThrow('--fast');
  });
});
