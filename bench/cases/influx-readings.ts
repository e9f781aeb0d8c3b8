import { setTimeout as delay } from 'node:timers/promises';
import { compare } from '../compare.ts';
import { startDownlink } from '../downlink-target.ts';
import { InfluxServer } from '../influx-server.ts';
import { bareAedes } from '../peer-target.ts';
import type { Target } from '../target.ts';
import { assertStored, floodWithReadings } from './durable-readings.ts';

/** The same readings with a real InfluxDB as History, for long enough to see whether it keeps up. */
const BYTES_A_MB = 1_000_000;
/** Within each second the backlog rises and falls as batches go: the lowest of this many looks counts. */
const LOOKS = 10;
const LOOK_EVERY_MS = 100;

export const influxReadings = compare({
  id: 'readings-influx',
  peers: () => [bareAedes],
  usualRuns: 3,
  obstacle: () => InfluxServer.obstacle(),
  figures: [
    { id: 'readings-influx', title: 'the same with InfluxDB', unit: 'per s', goal: '>= 0.50 x' },
    { id: 'backlog', title: '  journal, half of the time', unit: 'MB', isOwn: true },
    { id: 'backlog-growth', title: '  journal, growth from then on', unit: 'MB', goal: 'none', isOwn: true },
  ],
  devices: (load) => load.connections,

  async startDownlink(deviceCount) {
    const influx = await InfluxServer.start();
    try {
      const downlink = await startDownlink(deviceCount, influx.url);
      const stop = async (): Promise<void> => {
        await downlink.stop();
        await influx.remove();
      };
      return { ...downlink, stop };
    } catch (error) {
      await influx.remove();
      throw error;
    }
  },

  async measure(target, load) {
    let half = 0;
    let end = 0;
    const { perSecond, total } = await floodWithReadings(target, load.outstanding, load.warmUpMs, async () => {
      const startedAt = performance.now();
      const until = (ms: number): Promise<void> => delay(Math.max(0, startedAt + ms - performance.now()));
      await until(load.influxMs / 2);
      half = await lowestBacklog(target);
      await until(load.influxMs - LOOKS * LOOK_EVERY_MS);
      end = await lowestBacklog(target);
      await until(load.influxMs);
    });
    return { 'readings-influx': perSecond, backlog: half / BYTES_A_MB, 'backlog-growth': (end - half) / BYTES_A_MB, total };
  },

  verify: (target, { total = 0 }) => assertStored(target, total),
});

async function lowestBacklog({ metric }: Target): Promise<number> {
  if (metric === undefined) return 0;
  let lowest = Number.POSITIVE_INFINITY;
  for (let look = 0; look < LOOKS; look += 1) {
    lowest = Math.min(lowest, await metric('downlink_journal_bytes'));
    await delay(LOOK_EVERY_MS);
  }
  return lowest;
}
