import { setTimeout as delay } from 'node:timers/promises';
import { commandsTopic } from '../../devices/topics.ts';
import { compare } from '../compare.ts';
import { HttpConnection } from '../load/http-connection.ts';
import { openMqtt, subscribe } from '../load/mqtt-connection.ts';
import { PacedReadings } from '../load/paced-readings.ts';
import { relay } from '../peer-target.ts';
import { percentile } from '../statistics.ts';
import type { Target } from '../target.ts';

/**
 * From an operator's POST to the command's arrival at a connected device, at an even pace while readings flow. A slow answer does not slow
 * the pace, and waiting for it counts. Downlink's command is on disk before it goes out.
 */
const DEVICES_MAX = 20;
const READING_DEVICES_MAX = 50;
const OPERATORS = 20;
const ARRIVE_MS_MAX = 10_000;
const LOOK_AGAIN_MS = 10;
/** At so few a second it takes longer than in a flood until V8 has compiled what is used, on a thread beside the server's own, here and there. */
const WARM_UPS = 6;

export const pushLatency = compare({
  id: 'push',
  peers: () => [relay],
  figures: [
    { id: 'push-p50', title: 'POST to arrival at a device, p50', unit: 'ms', goal: '<= 3.00 x' },
    { id: 'push-p99', title: 'POST to arrival at a device, p99', unit: 'ms', goal: '<= 3.00 x' },
    { id: 'push-rate', title: '  commands pushed meanwhile', unit: 'per s' },
    { id: 'push-beside', title: '  readings acknowledged meanwhile', unit: 'per s' },
  ],
  devices: (load) => Math.min(load.connections, DEVICES_MAX) + Math.min(load.connections, READING_DEVICES_MAX),

  async measure(target, load) {
    const deviceCount = Math.min(load.connections, DEVICES_MAX);
    const ids = target.devices.slice(0, deviceCount).map(({ id }) => id);
    const arrivedAt: number[] = [];
    const onPayload = (payload: Buffer): void => {
      const { n } = (JSON.parse(payload.toString()) as { params: { n: number } }).params;
      arrivedAt[n] ??= performance.now();
    };
    const sockets = [];
    for (const device of target.devices.slice(0, deviceCount)) {
      const socket = await openMqtt(target.mqttPort, device);
      await subscribe(socket, commandsTopic(device.id), onPayload);
      sockets.push(socket);
    }
    const readings = await PacedReadings.start(target.mqttPort, target.devices.slice(deviceCount), load.besidePerSecond);
    const warmedUp = count(WARM_UPS * load.warmUpMs, load.pushesPerSecond);
    await push(target, ids, { perSecond: load.pushesPerSecond, count: warmedUp, from: 0 });
    const before = { at: performance.now(), readings: readings.acknowledged };
    const pushes = count(load.measureMs, load.pushesPerSecond);
    const issuedAt = await push(target, ids, { perSecond: load.pushesPerSecond, count: pushes, from: warmedUp });
    const seconds = (performance.now() - before.at) / 1_000;
    const beside = (readings.acknowledged - before.readings) / seconds;
    await readings.stop();
    const latenciesMs = (): number[] => issuedAt.map((at, i) => (arrivedAt[warmedUp + i] ?? Number.NaN) - at);
    const deadline = performance.now() + ARRIVE_MS_MAX;
    while (latenciesMs().some(Number.isNaN) && performance.now() < deadline) await delay(LOOK_AGAIN_MS);
    const latencies = latenciesMs();
    const lost = latencies.filter(Number.isNaN).length;
    if (lost > 0) throw new Error(`${lost} of ${pushes} commands did not arrive`);
    for (const socket of sockets) socket.destroy();
    return {
      'push-p50': percentile(latencies, 0.5),
      'push-p99': percentile(latencies, 0.99),
      'push-rate': pushes / seconds,
      'push-beside': beside,
    };
  },
});

function count(ms: number, perSecond: number): number {
  return Math.ceil((ms / 1_000) * perSecond);
}

/** When each command was issued; resolves once all are answered. */
async function push(
  target: Target,
  ids: readonly string[],
  { perSecond, count: total, from }: { perSecond: number; count: number; from: number },
): Promise<number[]> {
  const operators = await Promise.all(
    Array.from({ length: OPERATORS }, () => HttpConnection.open(target.httpPort, target.operatorKey)),
  );
  const lines = operators.map(() => Promise.resolve());
  const startedAt = performance.now();
  const issuedAt: number[] = [];
  for (let i = 0; i < total; i += 1) {
    const earlyMs = startedAt + (i * 1_000) / perSecond - performance.now();
    if (earlyMs > 0) await delay(earlyMs);
    issuedAt.push(performance.now());
    const at = i % operators.length;
    // The device's confirmation ends it, so that no command stays open.
    const body = JSON.stringify({ name: 'set', params: { n: from + i }, confirm: 'delivery' });
    const path = `/v1/devices/${ids[i % ids.length]}/commands`;
    lines[at] = (lines[at] ?? Promise.resolve()).then(async () => void (await operators[at]?.expect(201, 'POST', path, body)));
  }
  await Promise.all(lines);
  for (const operator of operators) operator.close();
  return issuedAt;
}
