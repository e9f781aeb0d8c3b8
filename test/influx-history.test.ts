import { once } from 'node:events';
import { createServer, request, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { InfluxOptions } from '../broker/store/influx/influx-client.ts';
import { InfluxHistory } from '../broker/store/influx/influx-history.ts';
import { commandLine, telemetryLine } from '../broker/store/line-protocol.ts';
import { historyContract } from './history-contract.ts';
import { append, commandOf } from './history-fixtures.ts';
import { Influxd } from './servers/influxd.ts';
import { isMissing } from './servers/server-paths.ts';

const T = 1_700_000_000_000_000_000n;

describe.skipIf(isMissing('influxd'))('with a real InfluxDB', () => {
  let influxd: Influxd;
  let databases = 0;
  const newDatabase = (): string => `test-${(databases += 1)}`;
  const open = (database: string, options: Partial<InfluxOptions> = {}): Promise<InfluxHistory> =>
    InfluxHistory.open({ url: influxd.url, database, ...options });
  const valuesOf = async (history: InfluxHistory, deviceId: string, metric: string): Promise<unknown[]> => {
    const points = await history.readings({ deviceId, metric, fromNs: 0n, toNs: 2n ** 62n, limit: 10_000 });
    return points.map((point) => point.value);
  };
  const unavailable = (words: string): unknown =>
    expect.objectContaining({ code: 'history_unavailable', message: expect.stringContaining(words) as unknown });

  beforeAll(async () => {
    influxd = await Influxd.start();
  });
  afterAll(() => influxd.remove());

  historyContract('InfluxDB', { open: () => open('contract') });

  describe('the database', () => {
    test('is made with a retention policy that keeps for ever', async () => {
      const database = newDatabase();
      const history = await open(database);
      expect(await influxd.execute('SHOW DATABASES')).toMatchObject(seriesWith([database]));
      expect(await influxd.execute(`SHOW RETENTION POLICIES ON "${database}"`)).toMatchObject(
        seriesWith(expect.arrayContaining(['0s', true]) as unknown),
      );
      await history.close();
    });

    test('is left as it is when it is there', async () => {
      const database = newDatabase();
      await influxd.execute(`CREATE DATABASE "${database}" WITH DURATION 3d NAME "three days"`);
      const before = await influxd.execute(`SHOW RETENTION POLICIES ON "${database}"`);
      const history = await open(database);
      await history.check();
      expect(await influxd.execute(`SHOW RETENTION POLICIES ON "${database}"`)).toEqual(before);
      await history.close();
    });

    test('is made again when somebody drops it', async () => {
      const database = newDatabase();
      const history = await open(database);
      await append(history, telemetryLine('a', { x: 1 }, String(T)));
      await influxd.execute(`DROP DATABASE "${database}"`);
      expect(await append(history, telemetryLine('a', { x: 2 }, String(T)))).toEqual([]);
      expect(await valuesOf(history, 'a', 'x')).toEqual([2]);
      await influxd.execute(`DROP DATABASE "${database}"`);
      expect(await valuesOf(history, 'a', 'x')).toEqual([]);
      await history.close();
    });

    test('shows commands beside the readings to plain InfluxQL', async () => {
      const database = newDatabase();
      const history = await open(database);
      const command = commandOf('pump-1', { name: 'start', params: { rpm: 900 }, historyNs: String(T) });
      await append(
        history,
        telemetryLine('pump-1', { rpm: 0 }, String(T - 1n)),
        commandLine(command),
        telemetryLine('pump-1', { rpm: 900 }, String(T + 1n)),
      );
      expect(
        await influxd.execute("SELECT id, state, params FROM command WHERE device = 'pump-1' AND \"name\" = 'start'", database),
      ).toMatchObject(seriesWith(['2023-11-14T22:13:20Z', command.id, 'queued', '{"rpm":900}']));
      expect(await influxd.execute('SELECT device, rpm FROM telemetry', database)).toMatchObject(
        seriesWith(['2023-11-14T22:13:19.999999999Z', 'pump-1', 0], ['2023-11-14T22:13:20.000000001Z', 'pump-1', 900]),
      );
      await history.close();
    });

    test('takes compressed batches from afar', async () => {
      const history = await open(newDatabase(), { url: influxd.url.replace('127.0.0.1', '0.0.0.0') });
      const lines = Array.from({ length: 1_000 }, (_, i) => telemetryLine('a', { x: i }, String(T + BigInt(i))));
      expect(await append(history, ...lines, 'telemetry,device=a x= 1')).toMatchObject([{ line: 'telemetry,device=a x= 1' }]);
      expect((await valuesOf(history, 'a', 'x')).length).toBe(1_000);
      await history.close();
    });
  });

  describe('rows whose type conflicts', () => {
    test("are refused alone, field by field, with InfluxDB's words", async () => {
      const history = await open(newDatabase());
      await append(history, telemetryLine('a', { x: 1 }, String(T)));
      const good = Array.from({ length: 100 }, (_, i) => telemetryLine('a', { x: i, y: 'text' }, String(T + BigInt(i))));
      const bad = [telemetryLine('b', { x: 'one' }, String(T)), telemetryLine('b', { x: true, z: 1 }, String(T + 1n))];
      const refused = await append(history, ...good.slice(0, 50), bad[0] ?? '', ...good.slice(50), bad[1] ?? '');
      const culprits = [telemetryLine('b', { x: 'one' }, String(T)), telemetryLine('b', { x: true }, String(T + 1n))];
      expect(refused.map((row) => row.line).toSorted()).toEqual(culprits.toSorted());
      expect(await valuesOf(history, 'b', 'z')).toEqual([1]);
      for (const { reason } of refused)
        expect(reason).toMatch(
          /field type conflict: input field "x" on measurement "telemetry" is type (string|boolean), already exists as type float/,
        );
      expect((await valuesOf(history, 'a', 'x')).length).toBe(100);
      expect((await valuesOf(history, 'a', 'y')).length).toBe(100);
      expect(await valuesOf(history, 'b', 'x')).toEqual([]);
      await history.close();
    });

    test('are refused also when the field is new in the batch', async () => {
      const history = await open(newDatabase());
      const lines = [1, 2, 'three', 4].map((fresh, i) => telemetryLine('a', { fresh, other: i }, String(T + BigInt(i))));
      const culprit = telemetryLine('a', { fresh: 'three' }, String(T + 2n));
      expect((await append(history, ...lines)).map((row) => row.line)).toEqual([culprit]);
      expect(await valuesOf(history, 'a', 'fresh')).toEqual([1, 2, 4]);
      expect(await valuesOf(history, 'a', 'other')).toEqual([0, 1, 2, 3]);
      await history.close();
    });

    test('by the thousand and of several metrics are found with few requests', async () => {
      let requests = 0;
      await between(
        (req, res) => {
          requests += 1;
          forward(influxd.url, req, res);
        },
        async (url) => {
          const history = await open(newDatabase(), { url });
          await append(history, telemetryLine('a', { x: 1, y: 'text', z: true }, String(T)));
          const lines = Array.from({ length: 3_000 }, (_, i) => {
            const values =
              i % 3 === 0
                ? { x: 'no' }
                : i % 7 === 0
                  ? { y: 1, x: 2 }
                  : i % 11 === 0
                    ? { z: 'no' }
                    : { x: i, y: 'yes', z: false };
            return telemetryLine('a', values, String(T + 1n + BigInt(i)));
          });
          const culprits = lines.flatMap((_, i) => {
            const culprit = i % 3 === 0 ? { x: 'no' } : i % 7 === 0 ? { y: 1 } : i % 11 === 0 ? { z: 'no' } : undefined;
            return culprit === undefined ? [] : [telemetryLine('a', culprit, String(T + 1n + BigInt(i)))];
          });
          const goodX = lines.filter((_, i) => i % 3 !== 0 && (i % 7 === 0 || i % 11 !== 0)).length;
          requests = 0;
          const refused = await append(history, ...lines);
          expect(requests).toBeLessThan(10);
          expect(refused.map((row) => row.line).toSorted()).toEqual(culprits.toSorted());
          expect((await valuesOf(history, 'a', 'x')).length).toBe(1 + goodX);
          await history.close();
        },
      );
    });

    test('leave the last value of a reading the last', async () => {
      const history = await open(newDatabase());
      await append(
        history,
        telemetryLine('a', { x: 1 }, String(T)),
        telemetryLine('a', { y: 'week before' }, String(T - 10n ** 16n)),
      );
      const line = (values: Record<string, number | string>): string => telemetryLine('a', values, String(T + 5n));
      const lines = [
        line({ y: 1 }),
        line({ y: 2, x: 2 }),
        line({ x: 'bad' }),
        line({ y: 3 }),
        line({ x: 'bad' }),
        line({ y: 4, x: 4 }),
      ];
      expect((await append(history, ...lines)).length).toBe(2);
      expect(await valuesOf(history, 'a', 'x')).toEqual([1, 4]);
      expect(await valuesOf(history, 'a', 'y')).toEqual(['week before', 4]);
      await history.close();
    });
  });

  describe('when InfluxDB', () => {
    test('is away, the store opens all the same and works as soon as it is back', async () => {
      const other = await Influxd.start();
      await other.stop();
      const history = await InfluxHistory.open({ url: other.url, database: 'later' });
      const line = telemetryLine('a', { x: 1 }, String(T));
      await expect(history.check()).rejects.toEqual(unavailable('ECONNREFUSED'));
      await expect(append(history, line)).rejects.toEqual(unavailable('ECONNREFUSED'));
      await expect(history.latest('a')).rejects.toEqual(unavailable('ECONNREFUSED'));
      await other.restart();
      expect(await append(history, line)).toEqual([]);
      expect(await valuesOf(history, 'a', 'x')).toEqual([1]);
      await other.stop('SIGKILL');
      await expect(append(history, line)).rejects.toEqual(unavailable('InfluxDB at'));
      await other.restart();
      await history.check();
      expect(await valuesOf(history, 'a', 'x')).toEqual([1]);
      await history.close();
      await other.remove();
    });

    test('hangs, each call ends at its deadline, and the next one works when it goes on', async () => {
      const other = await Influxd.start();
      const patient = await InfluxHistory.open({ url: other.url, database: 'hung' });
      await append(patient, telemetryLine('a', { x: 1 }, String(T)));
      const history = await InfluxHistory.open({ url: other.url, database: 'hung', deadlineMs: 300 });
      other.hang();
      await expect(append(history, telemetryLine('a', { x: 2 }, String(T)))).rejects.toEqual(
        unavailable('no answer within 300 ms'),
      );
      await expect(valuesOf(history, 'a', 'x')).rejects.toEqual(unavailable('no answer within 300 ms'));
      const waiting = append(patient, telemetryLine('a', { x: 3 }, String(T)));
      other.goOn();
      expect(await waiting).toEqual([]);
      expect(await valuesOf(patient, 'a', 'x')).toEqual([expect.any(Number)]);
      await history.close();
      await patient.close();
      await other.remove();
    });

    test('cuts or stalls its answers, calls end at their deadline, and the next one works', async () => {
      let mode: 'cut' | 'stall' | 'pass' = 'pass';
      await between(
        (req, res) => {
          if (mode === 'pass') return forward(influxd.url, req, res);
          res.writeHead(200, { 'content-type': 'application/json' });
          res.write('{"results":[');
          if (mode === 'cut') setImmediate(() => res.destroy());
        },
        async (url) => {
          const history = await open(newDatabase(), { url, deadlineMs: 1_000 });
          const line = telemetryLine('a', { x: 1 }, String(T));
          for (mode of ['cut', 'stall'] as const) {
            await expect(append(history, line)).rejects.toEqual(unavailable(url.replace('http://', '')));
            await expect(history.check()).rejects.toEqual(unavailable(url.replace('http://', '')));
          }
          mode = 'pass';
          expect(await append(history, line)).toEqual([]);
          await history.close();
        },
      );
    });

    test.each([
      ['503', 503, '{"error":"overloaded"}'],
      ['500', 500, '{"error":"engine: no space left on device"}'],
      ['401', 401, '{"error":"authorization failed"}'],
      ['a 400 that is not about rows', 400, '<html>The plain HTTP request was sent to HTTPS port</html>'],
    ])('answers %s, nothing is called refused, and the very next call works', async (_, status, body) => {
      let isIll = false;
      await between(
        (req, res) => {
          if (!isIll) return forward(influxd.url, req, res);
          req.resume().on('end', () => res.writeHead(status).end(body));
        },
        async (url) => {
          const history = await open(newDatabase(), { url });
          isIll = true;
          const line = telemetryLine('a', { x: 1 }, String(T));
          for (let i = 0; i < 3; i += 1) await expect(append(history, line)).rejects.toEqual(unavailable('InfluxDB at'));
          await expect(valuesOf(history, 'a', 'x')).rejects.toEqual(unavailable('InfluxDB at'));
          isIll = false;
          expect(await append(history, line)).toEqual([]);
          expect(await valuesOf(history, 'a', 'x')).toEqual([1]);
          await history.close();
        },
      );
    });

    test('finds a batch too large, it gets it in parts', async () => {
      let largest = 0;
      await between(
        (req, res) => {
          const length = Number(req.headers['content-length']);
          if (length <= 20_000) {
            largest = Math.max(largest, length);
            return forward(influxd.url, req, res);
          }
          req.resume().on('end', () => res.writeHead(413).end('{"error":"Request Entity Too Large"}'));
        },
        async (url) => {
          const history = await open(newDatabase(), { url });
          const lines = Array.from({ length: 1_000 }, (_, i) =>
            telemetryLine('a', { x: i, s: 's'.repeat(100) }, String(T + BigInt(i))),
          );
          expect(await append(history, ...lines)).toEqual([]);
          expect(largest).toBeGreaterThan(5_000);
          expect((await valuesOf(history, 'a', 'x')).length).toBe(1_000);
          await history.close();
        },
      );
    });

    test('wants a user, it gets the one that is configured, and a wrong password is told', async () => {
      const other = await Influxd.start({ hasAuth: true });
      await other.execute("CREATE USER admin WITH PASSWORD 's3cret: p@ss' WITH ALL PRIVILEGES");
      const options = { url: other.url, database: 'guarded', username: 'admin' };
      const history = await InfluxHistory.open({ ...options, password: 's3cret: p@ss' });
      expect(await append(history, telemetryLine('a', { x: 1 }, String(T)))).toEqual([]);
      expect(await valuesOf(history, 'a', 'x')).toEqual([1]);
      await history.close();
      const stranger = await InfluxHistory.open({ ...options, password: 'guess' });
      await expect(stranger.check()).rejects.toEqual(unavailable('authorization failed'));
      await expect(append(stranger, telemetryLine('a', { x: 2 }, String(T)))).rejects.toEqual(
        unavailable('authorization failed'),
      );
      await stranger.close();
      await other.remove();
    });
  });

  test('closing ends what is under way', async () => {
    await between(
      () => {},
      async (url) => {
        const history = await InfluxHistory.open({ url, database: 'never' });
        const check = history.check();
        await history.close();
        await expect(check).rejects.toEqual(unavailable('the server is stopping'));
      },
    );
  });
});

function seriesWith(...rows: unknown[]): object {
  return { results: [{ series: [{ values: expect.arrayContaining(rows) as unknown }] }] };
}

/** Runs `work` with a server in between that may misbehave. */
async function between(listener: RequestListener, work: (url: string) => Promise<void>): Promise<void> {
  const server: Server = createServer(listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    await work(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

function forward(to: string, ...[req, res]: Parameters<RequestListener>): void {
  const onward = request(new URL(req.url ?? '/', to), { method: req.method, headers: req.headers, agent: false }, (answer) => {
    res.writeHead(answer.statusCode ?? 502, answer.headers);
    answer.pipe(res);
  });
  onward.on('error', () => res.destroy());
  req.pipe(onward);
}
