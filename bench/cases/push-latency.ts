import { setTimeout as delay } from 'node:timers/promises';
import type { BenchCase } from '../bench-case.ts';
import { HttpConnection } from '../load/http-connection.ts';
import { openMqtt, subscribe } from '../load/mqtt-connection.ts';
import { commandsTopic } from '../../devices/topics.ts';
import { percentile } from '../statistics.ts';

/** From an operator's POST to the command's arrival at a connected device, one at a time at an even pace. Downlink's is on disk before it goes out. */
const DEVICES_MAX = 20;
const WARM_UP_SHARE = 0.2;

export const pushLatency: BenchCase = {
  id: 'push',
  peer: { script: 'relay', title: 'Fastify + aedes, keeps nothing' },
  figures: [
    { id: 'push-p50', title: 'POST to arrival at a device, p50', unit: 'ms' },
    { id: 'push-p99', title: 'POST to arrival at a device, p99', unit: 'ms' },
  ],
  devices: (load) => Math.min(load.connections, DEVICES_MAX),

  async measure(target, load) {
    const operator = await HttpConnection.open(target.httpPort, target.operatorKey);
    let arrived: (n: number) => void = () => {};
    const onPayload = (payload: Buffer): void => arrived((JSON.parse(payload.toString()) as { params: { n: number } }).params.n);
    const sockets = [];
    for (const device of target.devices) {
      const socket = await openMqtt(target.mqttPort, device);
      await subscribe(socket, commandsTopic(device.id), onPayload);
      sockets.push(socket);
    }
    const latencies: number[] = [];
    const warmUp = Math.ceil(load.pushes * WARM_UP_SHARE);
    for (let n = 0; n < warmUp + load.pushes; n += 1) {
      const id = target.devices[n % target.devices.length]?.id ?? '';
      const arrival = new Promise<number>((resolve, reject) => {
        arrived = (got) =>
          got === n ? resolve(performance.now()) : reject(new Error(`command ${got} arrived in place of ${n}`));
      });
      const issuedAt = performance.now();
      // The device's confirmation ends it, so that no command stays open.
      const answer = operator.expect(
        201,
        'POST',
        `/v1/devices/${id}/commands`,
        JSON.stringify({ name: 'set', params: { n }, confirm: 'delivery' }),
      );
      const [arrivedAt] = await Promise.all([arrival, answer]);
      if (n >= warmUp) latencies.push(arrivedAt - issuedAt);
      const leftMs = issuedAt + load.pushEveryMs - performance.now();
      if (leftMs > 0) await delay(leftMs);
    }
    operator.close();
    for (const socket of sockets) socket.destroy();
    return { 'push-p50': percentile(latencies, 0.5), 'push-p99': percentile(latencies, 0.99) };
  },
};
