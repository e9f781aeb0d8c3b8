import { connect, type Socket } from 'node:net';
import { generate, parser, type Packet } from 'mqtt-packet';
import type { LiveServer, Message } from './live-server.ts';

/** A device on MQTT that takes its messages and acknowledges none until it is told to: what a device behind a half-open connection looks like. */
export class MuteDevice {
  /** All messages that came. */
  readonly messages: Message[] = [];
  readonly #socket: Socket;
  readonly #unacknowledged: number[] = [];
  readonly #closed: Promise<void>;
  #acknowledges = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#closed = new Promise((resolve) => socket.once('close', () => resolve()));
  }

  /** Connects and subscribes to the device's commands with QoS 1. */
  static async connect(server: LiveServer, id: string, token: string): Promise<MuteDevice> {
    const socket = connect({ port: server.mqttPort, host: '127.0.0.1', noDelay: true });
    const device = new MuteDevice(socket);
    const incoming = parser();
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => void incoming.parse(chunk));
    await new Promise<void>((resolve) => {
      incoming.on('packet', (packet: Packet) => {
        if (packet.cmd === 'suback') resolve();
        device.#take(packet);
      });
      socket.write(
        generate({
          cmd: 'connect',
          protocolId: 'MQTT',
          protocolVersion: 4,
          clean: true,
          clientId: id,
          keepalive: 0,
          username: id,
          password: Buffer.from(token),
        }),
      );
      socket.write(generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: `devices/${id}/commands`, qos: 1 }] }));
    });
    return device;
  }

  /** From now on, and all that came before. */
  acknowledge(): void {
    this.#acknowledges = true;
    for (const messageId of this.#unacknowledged.splice(0)) this.puback(messageId);
  }

  puback(messageId: number): void {
    this.#socket.write(generate({ cmd: 'puback', messageId }));
  }

  /** Resolves when the server has answered all that was sent before. */
  async ping(): Promise<void> {
    const answered = new Promise<void>((resolve) => {
      this.#onPingresp = resolve;
    });
    this.#socket.write(generate({ cmd: 'pingreq' }));
    await answered;
  }

  #onPingresp: () => void = () => {};

  /** Goes away without a word. */
  async vanish(): Promise<void> {
    this.#socket.destroy();
    await this.#closed;
  }

  #take(packet: Packet): void {
    if (packet.cmd === 'pingresp') this.#onPingresp();
    if (packet.cmd !== 'publish') return;
    this.messages.push({ topic: packet.topic, body: JSON.parse(packet.payload.toString()) as Record<string, unknown> });
    if (packet.messageId === undefined) return;
    if (this.#acknowledges) this.puback(packet.messageId);
    else this.#unacknowledged.push(packet.messageId);
  }
}
