import { setTimeout as delay } from 'node:timers/promises';
import type { Socket } from 'node:net';
import { generate } from 'mqtt-packet';
import { telemetryTopic } from '../../devices/topics.ts';
import type { Device } from '../target.ts';
import { openMqtt } from './mqtt-connection.ts';

/** Readings at an even pace over many connections, QoS 1, whatever else goes on. */
const TICK_MS = 5;
const LOOK_AGAIN_MS = 20;
const MESSAGE_IDS = 65_535;
const PUBACK_BYTES = 4;
const ACKNOWLEDGED_MS_MAX = 60_000;
/** Beyond this many without PUBACK the pace is not kept: the server is behind for good. */
const OUTSTANDING_MAX = 30_000;

export class PacedReadings {
  readonly #devices: readonly Device[];
  readonly #sockets: Socket[] = [];
  readonly #perSecond: number;
  #timer: NodeJS.Timeout | undefined;
  #startedAt = 0;
  #paced = 0;
  #failure: Error | undefined;
  sent = 0;
  #acknowledgedBytes = 0;

  private constructor(devices: readonly Device[], perSecond: number) {
    this.#devices = devices;
    this.#perSecond = perSecond;
  }

  static async start(port: number, devices: readonly Device[], perSecond: number): Promise<PacedReadings> {
    const readings = new PacedReadings(devices, perSecond);
    for (const device of devices) {
      const socket = await openMqtt(port, device);
      // Nothing but PUBACKs come, and they are all of one length.
      socket.on('data', (chunk: Buffer) => (readings.#acknowledgedBytes += chunk.length));
      socket.on('close', () => (readings.#failure ??= new Error('the server closed an MQTT connection')));
      socket.on('error', (error) => (readings.#failure ??= error));
      readings.#sockets.push(socket);
    }
    readings.#startedAt = performance.now();
    readings.#timer = setInterval(() => readings.#tick(), TICK_MS);
    return readings;
  }

  get acknowledged(): number {
    return this.#acknowledgedBytes / PUBACK_BYTES;
  }

  /** Sends no more, and waits until all is acknowledged. Throws when a connection failed or not all was. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    const deadline = performance.now() + ACKNOWLEDGED_MS_MAX;
    while (this.#failure === undefined && this.acknowledged < this.sent && performance.now() < deadline)
      await delay(LOOK_AGAIN_MS);
    for (const socket of this.#sockets) socket.removeAllListeners('close').destroy();
    if (this.#failure !== undefined) throw this.#failure;
    if (this.acknowledged !== this.sent) throw new Error(`${this.sent} readings were sent, ${this.acknowledged} acknowledged`);
  }

  #tick(): void {
    const due = Math.floor(((performance.now() - this.#startedAt) / 1_000) * this.#perSecond);
    for (; this.#paced < due; this.#paced += 1) {
      if (this.sent - this.acknowledged >= OUTSTANDING_MAX) continue;
      const at = this.sent % this.#devices.length;
      const messageId = (Math.floor(this.sent / this.#devices.length) % MESSAGE_IDS) + 1;
      const topic = telemetryTopic(this.#devices[at]?.id ?? '');
      const payload = `{"temperature":${15 + (this.sent % 100) / 8},"humidity":${40 + (this.sent % 20)}}`;
      this.#sockets[at]?.write(generate({ cmd: 'publish', topic, payload, qos: 1, messageId, dup: false, retain: false }));
      this.sent += 1;
    }
  }
}
