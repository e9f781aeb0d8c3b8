import { connect, type Socket } from 'node:net';
import { generate, parser, type IPublishPacket, type Packet } from 'mqtt-packet';
import { delay } from '../../simulators/client/backoff.ts';

/**
 * An MQTT 3.1.1 client that keeps its session through any number of cut connections: message ids of its own, and after each reconnect
 * every unfinished message again in its order, PUBLISH with DUP or PUBREL [MQTT-4.4.0-1]. A publish resolves when the last acknowledgement is there.
 */
const RECONNECT_MS = 30;
const MESSAGE_ID_MAX = 65_535;

type Unfinished = {
  readonly messageId: number;
  readonly topic: string;
  readonly payload: Buffer;
  readonly qos: 1 | 2;
  /** How often it went out. */
  sent: number;
  isReceived: boolean;
  readonly acknowledged: (tries: number) => void;
};

export type MqttLinkOptions = {
  readonly deviceId: string;
  readonly token: string;
  readonly port: () => number;
  readonly subscriptions: readonly string[];
  readonly onMessage: (topic: string, payload: Buffer) => void;
};

export class MqttLink {
  readonly #options: MqttLinkOptions;
  readonly #unfinished = new Map<number, Unfinished>();
  #socket: Socket | undefined;
  #isUp = false;
  #lastMessageId = 0;
  #isClosed = false;
  #connections = 0;

  constructor(options: MqttLinkOptions) {
    this.#options = options;
    void this.#stayConnected();
  }

  get outstanding(): number {
    return this.#unfinished.size;
  }
  get connections(): number {
    return this.#connections;
  }

  /** Resolves with how often it was sent, once PUBACK or PUBCOMP came. */
  publish(topic: string, message: unknown, qos: 1 | 2): Promise<number> {
    do this.#lastMessageId = (this.#lastMessageId % MESSAGE_ID_MAX) + 1;
    while (this.#unfinished.has(this.#lastMessageId));
    const messageId = this.#lastMessageId;
    return new Promise((acknowledged) => {
      const payload = Buffer.from(JSON.stringify(message));
      const unfinished = { messageId, topic, payload, qos, sent: 0, isReceived: false, acknowledged };
      this.#unfinished.set(messageId, unfinished);
      if (this.#isUp) this.#send(unfinished);
    });
  }

  /** Closes the connection as a lost network does; it comes back by itself. */
  cut(): void {
    this.#socket?.destroy();
  }

  close(): void {
    this.#isClosed = true;
    this.#socket?.destroy();
  }

  async #stayConnected(): Promise<void> {
    while (!this.#isClosed) {
      await this.#connection();
      await delay(RECONNECT_MS);
    }
  }

  /** One connection, to its end. */
  #connection(): Promise<void> {
    const { deviceId, token, port } = this.#options;
    return new Promise((resolve) => {
      const socket = connect({ port: port(), host: '127.0.0.1', noDelay: true });
      this.#socket = socket;
      const incoming = parser();
      incoming.on('packet', (packet: Packet) => this.#take(packet));
      incoming.on('error', () => socket.destroy());
      socket.on('data', (chunk: Buffer) => void incoming.parse(chunk));
      socket.on('error', () => {});
      socket.on('close', () => {
        this.#isUp = false;
        resolve();
      });
      this.#write({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 4,
        clean: false,
        clientId: deviceId,
        keepalive: 60,
        username: deviceId,
        password: Buffer.from(token),
      });
    });
  }

  #take(packet: Packet): void {
    switch (packet.cmd) {
      case 'connack':
        if (packet.returnCode !== 0) return void this.#socket?.destroy();
        return this.#begin();
      case 'publish':
        return this.#deliver(packet);
      case 'puback':
      case 'pubcomp':
        return this.#finish(packet.messageId);
      case 'pubrec': {
        const unfinished = this.#unfinished.get(packet.messageId ?? 0);
        if (unfinished !== undefined) unfinished.isReceived = true;
        return this.#write({ cmd: 'pubrel', messageId: packet.messageId ?? 0 });
      }
      default:
    }
  }

  #begin(): void {
    this.#isUp = true;
    this.#connections += 1;
    const subscriptions = this.#options.subscriptions.map((topic) => ({ topic, qos: 1 as const }));
    if (subscriptions.length > 0) this.#write({ cmd: 'subscribe', messageId: MESSAGE_ID_MAX, subscriptions });
    for (const unfinished of this.#unfinished.values()) {
      if (unfinished.isReceived) this.#write({ cmd: 'pubrel', messageId: unfinished.messageId });
      else this.#send(unfinished);
    }
  }

  #send(unfinished: Unfinished): void {
    const { messageId, topic, payload, qos, sent } = unfinished;
    unfinished.sent += 1;
    this.#write({ cmd: 'publish', topic, payload, qos, messageId, dup: sent > 0, retain: false });
  }

  #deliver({ topic, payload, messageId }: IPublishPacket): void {
    this.#options.onMessage(topic, payload as Buffer);
    if (messageId !== undefined) this.#write({ cmd: 'puback', messageId });
  }

  #finish(messageId: number | undefined): void {
    const unfinished = this.#unfinished.get(messageId ?? 0);
    if (unfinished === undefined) return;
    this.#unfinished.delete(unfinished.messageId);
    unfinished.acknowledged(unfinished.sent);
  }

  #write(packet: Packet): void {
    this.#socket?.write(generate(packet));
  }
}
