import { connect, type Socket } from 'node:net';
import { generate, parser, type IPublishPacket, type Packet } from 'mqtt-packet';
import { delay } from '../../simulators/client/backoff.ts';
import type { ProgramKey } from '../raw-client.ts';

/**
 * A program on MQTT whose session outlives any number of connections and servers, kept to the letter: QoS 2 both ways, unfinished messages again in their
 * order after each reconnect [MQTT-4.4.0-1], PUBREL for what was received [MQTT-4.3.3-1], a message taken once until it is released
 * [MQTT-4.3.3-2], and a subscription made once, for the session is the server's to keep.
 */
const RECONNECT_MS = 20;
const SUBSCRIBE_ID = 65_535;

type Outgoing = {
  readonly topic: string;
  readonly payload: string;
  sent: number;
  isReceived: boolean;
  readonly done: () => void;
};

type SessionProgramOptions = {
  readonly key: ProgramKey;
  readonly clientId: string;
  readonly port: () => number;
  readonly filters?: readonly string[];
  /** In the turn in which a packet has come. */
  readonly onPacket?: (cmd: Packet['cmd']) => void;
};

export class SessionProgram {
  /** In the order of their arrival, each when it came first. */
  readonly messages: { readonly topic: string; readonly text: string }[] = [];
  /** What a server may never do. */
  readonly faults: string[] = [];
  readonly #options: SessionProgramOptions;
  readonly #outgoing = new Map<number, Outgoing>();
  /** Message ids that came and are yet to be released. */
  readonly #unreleased = new Set<number>();
  #socket: Socket | undefined;
  #lastMessageId = 0;
  #isSubscribed = false;
  #wasIn = false;
  #isUp = false;
  #isClosed = false;
  #connections = 0;

  constructor(options: SessionProgramOptions) {
    this.#options = options;
    void this.#stayConnected();
  }

  get connections(): number {
    return this.#connections;
  }

  get isSubscribed(): boolean {
    return this.#isSubscribed;
  }

  get unfinished(): number {
    return this.#outgoing.size;
  }

  get unreleased(): number {
    return this.#unreleased.size;
  }

  /** With QoS 2; resolves with PUBCOMP. */
  publish(topic: string, payload: string): Promise<void> {
    do this.#lastMessageId = (this.#lastMessageId % (SUBSCRIBE_ID - 1)) + 1;
    while (this.#outgoing.has(this.#lastMessageId));
    const messageId = this.#lastMessageId;
    return new Promise((done) => {
      const outgoing = { topic, payload, sent: 0, isReceived: false, done };
      this.#outgoing.set(messageId, outgoing);
      if (this.#isUp) this.#send(messageId, outgoing);
    });
  }

  /** Closes the connection as a lost network does, and comes back at once when `isHasty`, else as after any other end. */
  cut(isHasty = false): void {
    const socket = this.#socket;
    if (isHasty) void this.#connection();
    socket?.destroy();
  }

  close(): void {
    this.#isClosed = true;
    this.#socket?.destroy();
  }

  async #stayConnected(): Promise<void> {
    while (!this.#isClosed) {
      if (this.#socket === undefined || this.#socket.destroyed) await this.#connection();
      await delay(RECONNECT_MS);
    }
  }

  #connection(): Promise<void> {
    const { key, clientId, port } = this.#options;
    this.#isUp = false;
    return new Promise((resolve) => {
      const socket = connect({ port: port(), host: '127.0.0.1', noDelay: true });
      this.#socket = socket;
      const incoming = parser();
      // What still comes over a connection that has a successor was never read.
      incoming.on('packet', (packet: Packet) => this.#socket === socket && !socket.destroyed && this.#take(packet));
      incoming.on('error', () => socket.destroy());
      socket.on('data', (chunk: Buffer) => void incoming.parse(chunk));
      socket.on('error', () => {});
      socket.on('close', () => {
        if (this.#socket === socket) this.#isUp = false;
        resolve();
      });
      const login = { clientId, username: key.id, password: Buffer.from(key.key) };
      this.#write({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 4, clean: false, keepalive: 60, ...login });
    });
  }

  #take(packet: Packet): void {
    this.#answer(packet);
    this.#options.onPacket?.(packet.cmd);
  }

  #answer(packet: Packet): void {
    const messageId = packet.messageId ?? 0;
    switch (packet.cmd) {
      case 'connack':
        return packet.returnCode === 0 ? this.#begin(packet.sessionPresent) : void this.#socket?.destroy();
      case 'suback':
        this.#isSubscribed = true;
        return;
      case 'publish':
        return this.#receive(packet);
      case 'pubrel':
        this.#unreleased.delete(messageId);
        return this.#write({ cmd: 'pubcomp', messageId });
      case 'pubrec': {
        const outgoing = this.#outgoing.get(messageId);
        if (outgoing !== undefined) outgoing.isReceived = true;
        return this.#write({ cmd: 'pubrel', messageId });
      }
      case 'pubcomp': {
        const outgoing = this.#outgoing.get(messageId);
        if (outgoing?.isReceived === false) this.faults.push(`PUBCOMP ${messageId} before its PUBREC`);
        this.#outgoing.delete(messageId);
        return outgoing?.done();
      }
      default:
    }
  }

  #begin(isPresent: boolean): void {
    const { filters = [] } = this.#options;
    if (this.#wasIn && !isPresent) this.faults.push('its session was lost');
    this.#wasIn = true;
    this.#isUp = true;
    this.#connections += 1;
    if (filters.length > 0 && !this.#isSubscribed) {
      const subscriptions = filters.map((topic) => ({ topic, qos: 2 as const }));
      this.#write({ cmd: 'subscribe', messageId: SUBSCRIBE_ID, subscriptions });
    }
    for (const [messageId, outgoing] of this.#outgoing) {
      if (outgoing.isReceived) this.#write({ cmd: 'pubrel', messageId });
      else this.#send(messageId, outgoing);
    }
  }

  #receive({ topic, payload, qos, messageId = 0 }: IPublishPacket): void {
    if (qos !== 2) this.faults.push(`a message came with QoS ${qos}`);
    if (!this.#unreleased.has(messageId)) this.messages.push({ topic, text: payload.toString() });
    this.#unreleased.add(messageId);
    this.#write({ cmd: 'pubrec', messageId });
  }

  #send(messageId: number, outgoing: Outgoing): void {
    const { topic, payload, sent } = outgoing;
    outgoing.sent += 1;
    this.#write({ cmd: 'publish', topic, payload, qos: 2, messageId, dup: sent > 0, retain: false });
  }

  #write(packet: Packet): void {
    this.#socket?.write(generate(packet));
  }
}
