import type { Socket } from 'node:net';
import type { Packet } from 'mqtt-packet';

/** The MQTT packets that came over one connection, to be taken one by one. */
export class ReceivedPackets {
  readonly closed: Promise<void>;
  readonly #packets: Packet[] = [];
  #isClosed = false;
  #arrived: () => void = () => {};

  constructor(socket: Socket) {
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        this.#isClosed = true;
        this.#arrived();
        resolve();
      }),
    );
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** How many wait to be taken. */
  get pending(): number {
    return this.#packets.length;
  }

  readonly add = (packet: Packet): void => {
    this.#packets.push(packet);
    this.#arrived();
  };

  /** The next one; undefined when the connection ends first. */
  async next(): Promise<Packet | undefined> {
    for (;;) {
      const packet = this.#packets.shift();
      if (packet !== undefined || this.#isClosed) return packet;
      await new Promise<void>((resolve) => (this.#arrived = resolve));
    }
  }

  /** All that come before a PINGRESP, or the end. */
  async beforePong(): Promise<Packet[]> {
    const packets: Packet[] = [];
    for (;;) {
      const packet = await this.next();
      if (packet === undefined || packet.cmd === 'pingresp') return packets;
      packets.push(packet);
    }
  }
}
