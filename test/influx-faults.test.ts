import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LiveServer, type MqttDevice } from './live-server.ts';
import { FaultProxy, FAULTS, type Fault } from './servers/fault-proxy.ts';
import { influxAt, Influxd } from './servers/influxd.ts';
import { isMissing } from './servers/server-paths.ts';

/** Whole servers before an InfluxDB that fails in every way: nothing acknowledged is missing, nothing is there twice. */
const T = Date.now() - 3_600_000;
const BEFORE = 10;
const MEANWHILE = 30;

type Counted = { results: { series?: { values: (string | number)[][] }[] }[] };

describe.skipIf(isMissing('influxd'))('InfluxDB', { timeout: 120_000 }, () => {
  let influxd: Influxd;
  let databases = 0;
  beforeAll(async () => {
    influxd = await Influxd.start();
  });
  afterAll(() => influxd.remove());

  const newDatabaseAt = (url: string) => influxAt(url, `faults${(databases += 1)}`);

  async function count(database: string, of: string, device: string): Promise<number> {
    const answer = (await influxd.execute(`SELECT count(*) FROM ${of} WHERE device = '${device}'`, database)) as Counted;
    return Math.max(0, ...(answer.results[0]?.series?.[0]?.values[0]?.slice(1).map(Number) ?? []));
  }

  async function until(what: () => Promise<boolean>): Promise<void> {
    while (!(await what())) await new Promise((resolve) => setTimeout(resolve, 50));
  }

  for (const fault of FAULTS) {
    test(`fault "${fault}": devices and operators go on, queries say so, and InfluxDB has all of it once when it is well`, async () => {
      const proxy = await FaultProxy.start(influxd.url);
      const influx = newDatabaseAt(proxy.url);
      const server = await LiveServer.start({ influx });
      const tokens = { http: await server.createDevice('http'), mqtt: await server.createDevice('mqtt') };
      const device = await server.connect('mqtt', tokens.mqtt);
      let acknowledged = 0;
      const commands: string[] = [];
      const trickle = async (rounds: number): Promise<void> => {
        for (let i = 0; i < rounds; i += 1) {
          const reading = { ts: T + acknowledged, values: { x: acknowledged } };
          const [answer] = await Promise.all([
            server.request('POST', '/v1/device/telemetry', { credential: tokens.http, body: reading }),
            device.publish('telemetry', reading, i % 2 === 0 ? 1 : 2),
          ]);
          expect(answer.status).toBe(202);
          acknowledged += 1;
          if (i % 5 === 0) commands.push((await server.issue('http', { name: 'set', params: { i } })).id);
        }
      };
      const ready = async (): Promise<{ status: number; reasons: string }> => {
        const { status, body } = await server.request<{ reasons: string[] }>('GET', '/readyz');
        return { status, reasons: body.reasons.join('; ') };
      };

      await trickle(BEFORE);
      await until(async () => (await count(influx.database, 'telemetry', 'http')) === BEFORE);

      await proxy.set(fault);
      await trickle(MEANWHILE);
      if (isDown(fault)) {
        await until(async () => (await ready()).reasons.includes('the journal is not being shipped'));
        expect((await ready()).reasons).toContain(`InfluxDB at ${new URL(proxy.url).host}`);
        const past = await server.request('GET', '/v1/devices/http/telemetry?metric=x');
        expect(past).toMatchObject({ status: 503, body: { code: 'history_unavailable' } });
        await trickle(5);
        expect((await server.command(commands.at(-1) ?? '')).state).toBe('queued');
      }

      await proxy.set('none');
      await trickle(5);
      await until(async () => (await count(influx.database, 'telemetry', 'mqtt')) >= acknowledged);
      await until(async () => (await ready()).status === 200);
      expect(await count(influx.database, 'telemetry', 'http')).toBe(acknowledged);
      expect(await count(influx.database, 'telemetry', 'mqtt')).toBe(acknowledged);
      await until(async () => (await count(influx.database, 'command', 'http')) >= commands.length);
      expect(await count(influx.database, 'command', 'http')).toBe(commands.length);
      expect(await count(influx.database, 'command_event', 'http')).toBe(commands.length);
      const { body } = await server.request<{ rows: unknown[] }>('GET', '/v1/quarantine');
      expect(body.rows).toEqual([]);
      await device.end();
      await server.close();
      await proxy.close();
    });
  }

  describe('at the bound of the journal', () => {
    const filler = 'x'.repeat(1_000);
    const JOURNAL_BYTES_MAX = 64 * 1024;

    async function fullServer(): Promise<{
      server: LiveServer;
      proxy: FaultProxy;
      database: string;
      token: string;
      device: MqttDevice;
      acknowledged: number;
    }> {
      const proxy = await FaultProxy.start(influxd.url);
      const influx = newDatabaseAt(proxy.url);
      const server = await LiveServer.start({ influx, journalBytesMax: JOURNAL_BYTES_MAX });
      const token = await server.createDevice('pump');
      const device = await server.connect('pump', token);
      await device.subscribe('errors');
      await proxy.set('refuse');
      let acknowledged = 0;
      for (;;) {
        const body = { ts: T + acknowledged, values: { x: acknowledged, filler } };
        const answer = await server.request('POST', '/v1/device/telemetry', { credential: token, body });
        if (answer.status !== 202) {
          expect(answer).toMatchObject({ status: 503, body: { code: 'journal_full' } });
          expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
          break;
        }
        acknowledged += 1;
      }
      return { server, proxy, database: influx.database, token, device, acknowledged };
    }

    test('HTTP is told when to come again, MQTT is held unacknowledged with its connection open, QoS 0 is dropped and counted; all goes on when InfluxDB is back', async () => {
      const full = await fullServer();
      const { server, proxy, database, device } = full;
      let held = 0;
      const publishing = Array.from({ length: 50 }, async (_, i) => {
        await device.publish('telemetry', { ts: T + 1_000_000 + i, values: { x: i, filler } }, i % 2 === 0 ? 1 : 2);
        held += 1;
      });
      // Over a connection of its own: what comes behind held messages is not read.
      const heedless = await server.connect('heedless', await server.createDevice('heedless'));
      await heedless.publish('telemetry', { x: 1, filler }, 0);
      expect(await device.next()).toMatchObject({ body: { code: 'journal_full' } });
      const metric = async (name: string): Promise<number> => {
        const text = await (await fetch(`${server.url}/metrics`)).text();
        return Number(new RegExp(`^${name} (\\d+)`, 'm').exec(text)?.[1]);
      };
      await until(async () => (await metric('downlink_held_messages')) > 0);
      await until(async () => (await metric('downlink_dropped_messages_total')) > 0);
      const { status, body } = await server.request<{ reasons: string[] }>('GET', '/readyz');
      expect(status).toBe(503);
      expect(body.reasons.join()).toContain('not being shipped');
      const command = await server.request('POST', '/v1/devices/pump/commands', { body: { name: 'set', params: { filler } } });
      expect(command).toMatchObject({ status: 503, body: { code: 'journal_full' } });
      expect(held).toBe(0);
      expect(device.client.connected).toBe(true);

      await proxy.set('none');
      await Promise.all(publishing);
      expect(device.client.connected).toBe(true);
      const wanted = full.acknowledged + publishing.length;
      await until(async () => (await count(database, 'telemetry', 'pump')) >= wanted);
      expect(await count(database, 'telemetry', 'pump')).toBe(wanted);
      expect(await metric('downlink_held_messages')).toBe(0);
      await until(async () => (await server.request('GET', '/readyz')).status === 200);
      await heedless.end();
      await device.end();
      await server.close();
      await proxy.close();
    });

    test('a stop lets held messages go unacknowledged, and loses nothing that was acknowledged', async () => {
      const { server, proxy, database, device, acknowledged } = await fullServer();
      let held = 0;
      const publishing = device.publish('telemetry', { ts: T + 5_000, values: { x: 1, filler } }).then(
        () => (held += 1),
        () => {},
      );
      expect(await device.next()).toMatchObject({ body: { code: 'journal_full' } });
      await server.stop();
      await device.closed();
      await device.end();
      await publishing;
      expect(held).toBe(0);
      await proxy.set('none');
      await server.restart();
      await until(async () => (await count(database, 'telemetry', 'pump')) >= acknowledged);
      expect(await count(database, 'telemetry', 'pump')).toBe(acknowledged);
      await server.close();
      await proxy.close();
    });
  });

  test('a type conflict is in quarantine with its words and counted, and everything else goes on', async () => {
    const influx = newDatabaseAt(influxd.url);
    const server = await LiveServer.start({ influx });
    const [a, b] = [await server.createDevice('a'), await server.createDevice('b')];
    const send = (credential: string, values: object, n: number): Promise<unknown> =>
      server.request('POST', '/v1/device/telemetry', { credential, body: { ts: T + n, values } });
    await send(a, { level: 1 }, 0);
    await until(async () => (await count(influx.database, 'telemetry', 'a')) === 1);
    await Promise.all(Array.from({ length: 20 }, (_, n) => send(n % 2 ? a : b, n % 2 ? { level: n } : { level: 'high' }, n + 1)));
    await until(async () => (await count(influx.database, 'telemetry', 'a')) === 11);
    await until(async () => (await server.request<{ rows: unknown[] }>('GET', '/v1/quarantine')).body.rows.length >= 10);
    const { body } = await server.request<{ rows: { line: string; reason: string }[] }>('GET', '/v1/quarantine');
    expect(body.rows).toHaveLength(10);
    for (const row of body.rows) {
      expect(row.line).toMatch(/^telemetry,device=b level="high"/);
      expect(row.reason).toContain('field type conflict');
    }
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/^downlink_quarantined_rows_total 10$/m);
    expect((await server.request('GET', '/readyz')).status).toBe(200);
    await server.close();
  });
});

/** Slowness alone keeps nobody from anything. */
function isDown(fault: Fault): boolean {
  return fault !== 'slow';
}
