import { setTimeout as delay } from 'node:timers/promises';
import { compare } from '../compare.ts';
import { HttpConnection } from '../load/http-connection.ts';
import { openMqtt } from '../load/mqtt-connection.ts';
import { ReadingFlood } from '../load/reading-flood.ts';
import { bareAedes, mosquitto } from '../peer-target.ts';
import type { Target } from '../target.ts';

/** Telemetry over MQTT, QoS 1: how many messages a second are acknowledged. Downlink's are on disk by then. */
const STORED_MS_MAX = 120_000;
const LOOK_AGAIN_MS = 100;

export const durableReadings = compare({
  id: 'readings',
  peers: () => [bareAedes, ...mosquitto()],
  figures: [{ id: 'readings', title: 'QoS 1 readings acknowledged', unit: 'per s', goal: '>= 0.60 x' }],
  devices: (load) => load.connections,

  async measure(target, load) {
    const { perSecond, total } = await floodWithReadings(target, load.outstanding, load.warmUpMs, () => delay(load.measureMs));
    return { readings: perSecond, total };
  },

  verify: (target, { total = 0 }) => assertStored(target, total),
});

/** Readings acknowledged a second while `measuring` lasts, and all that were. */
export async function floodWithReadings(
  target: Target,
  outstanding: number,
  warmUpMs: number,
  measuring: () => Promise<void>,
): Promise<{ perSecond: number; total: number }> {
  const floods: ReadingFlood[] = [];
  for (const device of target.devices) {
    floods.push(new ReadingFlood(await openMqtt(target.mqttPort, device), device.id, outstanding));
  }
  const acknowledged = (): number => floods.reduce((sum, flood) => sum + flood.acknowledged, 0);
  for (const flood of floods) flood.start();
  await delay(warmUpMs);
  const before = { at: performance.now(), count: acknowledged() };
  await measuring();
  const perSecond = ((acknowledged() - before.count) / (performance.now() - before.at)) * 1_000;
  await Promise.all(floods.map((flood) => flood.stop()));
  return { perSecond, total: acknowledged() };
}

/** Every message acknowledged is a reading in History: not one more, not one less. */
export async function assertStored(target: Target, total: number): Promise<void> {
  const connection = await HttpConnection.open(target.httpPort, target.operatorKey);
  const deadline = performance.now() + STORED_MS_MAX;
  let stored = await countStored(connection, target.devices);
  while (stored !== total && performance.now() < deadline) {
    await delay(LOOK_AGAIN_MS);
    stored = await countStored(connection, target.devices);
  }
  connection.close();
  if (stored !== total) throw new Error(`${total} readings were acknowledged, ${stored} are stored`);
}

async function countStored(connection: HttpConnection, devices: readonly { id: string }[]): Promise<number> {
  let stored = 0;
  for (const { id } of devices) {
    const body = await connection.expect(200, 'GET', `/v1/devices/${id}/telemetry?metric=temperature&fn=count`);
    const { points } = JSON.parse(body.toString()) as { points: { count: number }[] };
    stored += points.reduce((sum, point) => sum + point.count, 0);
  }
  return stored;
}
