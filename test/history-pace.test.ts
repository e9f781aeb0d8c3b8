import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { HistoryPace } from '../broker/store/history-pace.ts';
import { LiveServer } from './live-server.ts';
import { FaultProxy } from './servers/fault-proxy.ts';
import { influxAt, Influxd } from './servers/influxd.ts';
import { isMissing } from './servers/server-paths.ts';

const MIB = 1024 * 1024;
const HELD_FROM = 4 * MIB;

describe('acknowledgements of telemetry', () => {
  const journal = { bytes: 0 };
  let released: string[];
  let pace: HistoryPace;

  beforeEach(() => {
    vi.useFakeTimers({ now: 0 });
    released = [];
    journal.bytes = 0;
    pace = new HistoryPace(journal, undefined, () => Date.now());
  });
  afterEach(() => vi.useRealTimers());

  /** History takes so much of the journal. */
  function ship(octets: number): void {
    journal.bytes -= octets;
    pace.shipped(octets);
  }

  /** Appends it to the journal and says whether its acknowledgement is held. */
  function append(name: string, octets: number): boolean {
    journal.bytes += octets;
    const waited = pace.wait(octets);
    void waited?.then(() => released.push(name));
    return waited !== undefined;
  }

  test('are not held while the journal is small', () => {
    ship(0);
    expect(append('a', HELD_FROM)).toBe(false);
  });

  test('are held once more has come than History takes, and go on in their order as it takes rows, no faster than it does', async () => {
    ship(0);
    append('burst', 3 * HELD_FROM);
    for (const name of ['a', 'b', 'c', 'd']) expect(append(name, MIB / 2)).toBe(true);
    ship(MIB);
    await vi.advanceTimersByTimeAsync(0);
    expect(released).toEqual(['burst']);
    ship(MIB);
    await vi.advanceTimersByTimeAsync(0);
    expect(released).toEqual(['burst', 'a', 'b']);
    ship(MIB);
    await vi.advanceTimersByTimeAsync(0);
    expect(released).toEqual(['burst', 'a', 'b', 'c', 'd']);
    expect(pace.held).toBe(0);
  });

  test('let a journal that has grown while History was away shrink, and hold nobody who sends less than History takes', async () => {
    journal.bytes = 50 * MIB;
    pace.failed();
    expect(append('meanwhile', MIB)).toBe(false);
    while (journal.bytes > HELD_FROM) {
      ship(MIB);
      expect(append('little', MIB / 2)).toBe(false);
    }
    journal.bytes = 50 * MIB;
    ship(MIB);
    const before = journal.bytes;
    for (let i = 0; i < 100; i += 1) {
      for (let sent = 0; sent < 100 && !append('flood', MIB / 16); sent += 1);
      ship(MIB);
      await vi.advanceTimersByTimeAsync(0);
    }
    expect(journal.bytes).toBeLessThan(before);
  });

  test('are held for half a second at most, each', async () => {
    ship(0);
    append('a', HELD_FROM + 1);
    await vi.advanceTimersByTimeAsync(300);
    append('b', 1);
    await vi.advanceTimersByTimeAsync(199);
    expect(released).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(released).toEqual(['a']);
    await vi.advanceTimersByTimeAsync(300);
    expect(released).toEqual(['a', 'b']);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('are not held while History stands still, is away or has taken nothing yet', async () => {
    expect(append('before the first shipment', 2 * HELD_FROM)).toBe(false);
    ship(MIB);
    append('a', 2 * MIB);
    pace.failed();
    await vi.advanceTimersByTimeAsync(0);
    expect(released).toEqual(['a']);
    expect(append('away', MIB)).toBe(false);
    ship(MIB);
    expect(append('b', MIB)).toBe(true);
    await vi.advanceTimersByTimeAsync(1_001);
    expect(append('standing still', MIB)).toBe(false);
  });
});

describe.skipIf(isMissing('influxd'))('with an InfluxDB that takes less than comes', { timeout: 120_000 }, () => {
  const SENDERS = 4;
  const MESSAGES = 60;
  const SAMPLES = 100;
  const FILLER = 'x'.repeat(1_000);
  const T = Date.now() - 3_600_000;

  test('the journal stays far below what was sent, over HTTP and MQTT, and nothing is missing', async () => {
    const influxd = await Influxd.start();
    const proxy = await FaultProxy.start(influxd.url);
    await proxy.set('slow');
    const influx = influxAt(proxy.url, 'paced');
    const server = await LiveServer.start({ influx });
    const metric = async (name: string): Promise<number> => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      return Number(new RegExp(`^${name} (\\d+)`, 'm').exec(text)?.[1]);
    };
    let largest = 0;
    let isSent = false;
    const look = async (): Promise<void> => {
      while (!isSent) largest = Math.max(largest, await metric('downlink_journal_bytes'));
    };
    const looking = look();
    const send = async (id: string, sendOne: (samples: object[]) => Promise<unknown>): Promise<void> => {
      for (let i = 0; i < MESSAGES; i += 1) {
        await sendOne(
          Array.from({ length: SAMPLES }, (_, j) => ({ ts: T + i * SAMPLES + j, values: { n: j, filler: `${id}${FILLER}` } })),
        );
      }
    };
    const ids = Array.from({ length: SENDERS }, (_, i) => `sender-${i}`);
    await Promise.all(
      ids.map(async (id, i) => {
        const credential = await server.createDevice(id);
        if (i % 2 === 0) {
          return send(id, async (body) => {
            const { status } = await server.request('POST', '/v1/device/telemetry', { credential, body });
            expect(status).toBe(202);
          });
        }
        const device = await server.connect(id, credential);
        await send(id, (samples) => device.publish('telemetry', samples, i % 4 === 1 ? 1 : 2));
        await device.end();
      }),
    );
    isSent = true;
    await looking;
    expect(await metric('downlink_paced_total')).toBeGreaterThan(0);
    expect(largest).toBeLessThan(3 * HELD_FROM);
    await proxy.set('none');
    for (const id of ids) {
      const counted = (): Promise<unknown> =>
        influxd.execute(`SELECT count(n) FROM telemetry WHERE device = '${id}'`, influx.database);
      await vi.waitFor(
        async () =>
          expect(await counted()).toMatchObject({
            results: [{ series: [{ values: [[expect.anything(), MESSAGES * SAMPLES]] }] }],
          }),
        { timeout: 60_000, interval: 100 },
      );
    }
    await server.close();
    await proxy.close();
    await influxd.remove();
  });
});
