import type { Socket } from 'node:net';
import { generate } from 'mqtt-packet';
import { telemetryTopic } from '../../devices/topics.ts';

/**
 * One connection that keeps a fixed number of QoS 1 readings outstanding: each PUBACK is answered by the next reading. Packets are
 * made once, and what answers one chunk of PUBACKs goes out in one write.
 */
const PUBACK_BYTES = 4;
const PUBACK_TYPE = 0x40;

export class ReadingFlood {
  readonly #socket: Socket;
  readonly #packets: Buffer[] = [];
  #rest: Buffer = Buffer.alloc(0);
  #stopping: (() => void) | undefined;
  #outstanding = 0;
  #failure: Error | undefined;
  acknowledged = 0;

  constructor(socket: Socket, deviceId: string, outstanding: number) {
    this.#socket = socket;
    for (let messageId = 1; messageId <= outstanding; messageId += 1) {
      const payload = JSON.stringify({ temperature: 15 + messageId / 8, humidity: 40 + (messageId % 20) });
      this.#packets.push(
        generate({ cmd: 'publish', topic: telemetryTopic(deviceId), payload, qos: 1, messageId, dup: false, retain: false }),
      );
    }
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the server closed an MQTT connection')));
  }

  start(): void {
    this.#outstanding = this.#packets.length;
    this.#socket.write(Buffer.concat(this.#packets));
  }

  /** Sends no more, and waits until all is acknowledged: then every reading sent is one acknowledged. */
  async stop(): Promise<void> {
    this.#throwIfFailed();
    if (this.#outstanding > 0) await new Promise<void>((resolve) => (this.#stopping = resolve));
    this.#socket.removeAllListeners('close').destroy();
    this.#throwIfFailed();
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #take(chunk: Buffer): void {
    const data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const count = Math.floor(data.length / PUBACK_BYTES);
    const next: Buffer[] = [];
    for (let at = 0; at < count * PUBACK_BYTES; at += PUBACK_BYTES) {
      const packet = this.#packets[data.readUInt16BE(at + 2) - 1];
      if (data[at] !== PUBACK_TYPE || packet === undefined)
        return this.#fail(new Error('the server sent something other than a PUBACK'));
      next.push(packet);
    }
    this.#rest = data.subarray(count * PUBACK_BYTES);
    this.acknowledged += count;
    if (this.#stopping === undefined) {
      this.#socket.write(next.length === 1 && next[0] !== undefined ? next[0] : Buffer.concat(next));
      return;
    }
    this.#outstanding -= count;
    if (this.#outstanding === 0) this.#stopping();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#stopping?.();
  }
}
