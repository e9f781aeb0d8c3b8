import { setTimeout as delay } from 'node:timers/promises';
import type { BenchCase } from '../bench-case.ts';
import { HttpConnection } from '../load/http-connection.ts';
import { openMqtt } from '../load/mqtt-connection.ts';
import { ReadingFlood } from '../load/reading-flood.ts';

/** Telemetry over MQTT, QoS 1: how many messages a second are acknowledged. Downlink's are on disk by then. */
const STORED_MS_MAX = 60_000;
const LOOK_AGAIN_MS = 100;

export const durableReadings: BenchCase = {
  id: 'readings',
  peer: { script: 'bare-aedes', title: 'aedes, keeps nothing' },
  figures: [{ id: 'readings', title: 'QoS 1 readings acknowledged', unit: 'per s' }],
  devices: (load) => load.connections,

  async measure(target, load) {
    const floods: ReadingFlood[] = [];
    for (const device of target.devices) {
      floods.push(new ReadingFlood(await openMqtt(target.mqttPort, device), device.id, load.outstanding));
    }
    const acknowledged = (): number => floods.reduce((sum, flood) => sum + flood.acknowledged, 0);
    for (const flood of floods) flood.start();
    await delay(load.warmUpMs);
    const before = { at: performance.now(), count: acknowledged() };
    await delay(load.measureMs);
    const seconds = (performance.now() - before.at) / 1_000;
    const readings = (acknowledged() - before.count) / seconds;
    await Promise.all(floods.map((flood) => flood.stop()));
    return { readings, total: acknowledged() };
  },

  /** Every message acknowledged is a reading in History: not one more, not one less. */
  async verify(target, { total }) {
    const connection = await HttpConnection.open(target.httpPort, target.operatorKey);
    const deadline = performance.now() + STORED_MS_MAX;
    let stored = await countStored(connection, target.devices);
    while (stored !== total && performance.now() < deadline) {
      await delay(LOOK_AGAIN_MS);
      stored = await countStored(connection, target.devices);
    }
    connection.close();
    if (stored !== total) throw new Error(`${total} readings were acknowledged, ${stored} are stored`);
  },
};

async function countStored(connection: HttpConnection, devices: readonly { id: string }[]): Promise<number> {
  let stored = 0;
  for (const { id } of devices) {
    const body = await connection.expect(200, 'GET', `/v1/devices/${id}/telemetry?metric=temperature&fn=count`);
    const { points } = JSON.parse(body.toString()) as { points: { count: number }[] };
    stored += points.reduce((sum, point) => sum + point.count, 0);
  }
  return stored;
}
