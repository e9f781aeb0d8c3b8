import { setTimeout as delay } from 'node:timers/promises';
import type { BenchCase, Figure, Load } from '../bench-case.ts';
import { startDownlink, type Downlink } from '../downlink-target.ts';
import { InfluxServer } from '../influx-server.ts';
import { PacedReadings } from '../load/paced-readings.ts';

/** Readings flow, InfluxDB is gone for a while and comes back: what waits then, and whether all of it arrives. */
const DEVICES_MAX = 50;
const LOOK_EVERY_MS = 100;
const LAG_SECONDS_MAX = 1;
const DRAIN_MS_MAX = 300_000;
const STORED_MS_MAX = 30_000;

export const outage: BenchCase = {
  id: 'outage',

  async run({ load, runs: runsOf, say, note }) {
    const obstacle = InfluxServer.obstacle();
    if (obstacle !== undefined) {
      note(`outage: skipped, ${obstacle}`);
      return [];
    }
    const seconds = load.outageMs / 1_000;
    const runs = runsOf(1);
    const measured: Record<string, number>[] = [];
    for (let run = 1; run <= runs; run += 1) {
      say(`outage: ${seconds} s, run ${run} of ${runs}`);
      measured.push(await measure(load));
    }
    const figures: readonly Figure[] = [
      { id: 'outage-drain', title: `${seconds} s without InfluxDB: time to drain`, unit: 's', goal: '<= 30 s' },
      { id: 'outage-lost', title: '  lost', unit: 'readings', goal: 'none' },
      { id: 'outage-memory', title: '  extra memory', unit: 'MB', goal: '<= 200 MB' },
      { id: 'outage-backlog', title: '  journal at its end', unit: 'MB' },
      { id: 'outage-rate', title: '  readings acknowledged all the while', unit: 'per s' },
    ];
    return figures.map((figure) => ({ figure, downlinkRuns: measured.map((values) => values[figure.id] ?? Number.NaN) }));
  },
};

async function measure(load: Load): Promise<Record<string, number>> {
  const influx = await InfluxServer.start();
  try {
    const downlink = await startDownlink(Math.min(load.connections, DEVICES_MAX), influx.url);
    try {
      return await measureOn(downlink, influx, load);
    } finally {
      await downlink.stop();
    }
  } finally {
    await influx.remove();
  }
}

async function measureOn(downlink: Downlink, influx: InfluxServer, load: Load): Promise<Record<string, number>> {
  const readings = await PacedReadings.start(downlink.mqttPort, downlink.devices, load.outagePerSecond);
  const startedAt = performance.now();
  await delay(load.warmUpMs);
  let highest = downlink.residentBytes();
  const before = highest;
  const watch = setInterval(() => (highest = Math.max(highest, downlink.residentBytes())), LOOK_EVERY_MS);
  try {
    await influx.halt();
    await delay(load.outageMs);
    const backlog = await downlink.metric('downlink_journal_bytes');
    await influx.resume();
    const drain = await drainMs(downlink);
    const rate = (readings.acknowledged / (performance.now() - startedAt)) * 1_000;
    await readings.stop();
    return {
      'outage-drain': drain / 1_000,
      'outage-lost': readings.acknowledged - (await stored(influx, readings.acknowledged)),
      'outage-memory': (highest - before) / 1_000_000,
      'outage-backlog': backlog / 1_000_000,
      'outage-rate': rate,
    };
  } finally {
    clearInterval(watch);
  }
}

/** Until History is at most a second behind, while the readings go on. */
async function drainMs({ metric }: Downlink): Promise<number> {
  const startedAt = performance.now();
  while (performance.now() - startedAt < DRAIN_MS_MAX) {
    if ((await metric('downlink_history_lag_seconds')) <= LAG_SECONDS_MAX) return performance.now() - startedAt;
    await delay(LOOK_EVERY_MS);
  }
  throw new Error(`the journal did not drain within ${DRAIN_MS_MAX / 1_000} s`);
}

/** Points in InfluxDB, once there are as many as wanted or none have come for long. */
async function stored(influx: InfluxServer, wanted: number): Promise<number> {
  const deadline = performance.now() + STORED_MS_MAX;
  let count = await influx.count('telemetry', 'temperature');
  while (count < wanted && performance.now() < deadline) {
    await delay(LOOK_EVERY_MS);
    count = await influx.count('telemetry', 'temperature');
  }
  return count;
}
