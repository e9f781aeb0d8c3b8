import type { Client } from 'aedes';
import { MESSAGE_BYTES_MAX } from '../../devices/telemetry.ts';
import { telemetryTopic } from '../../devices/topics.ts';
import type { DeviceMessages } from './device-messages.ts';
import type { DeviceSession } from './device-session.ts';
import type { Programs } from './programs.ts';

/**
 * Telemetry with QoS 1 by the way that costs least: what a read of the socket brings waits for one promise and is acknowledged with
 * one write. Only what is plain goes this way: a single sample, ASCII, without fault, on the device's own topic, that no program follows, with
 * room in the journal. All else goes by aedes; the session's replies keep both in the order of arrival.
 */
type Together = { readonly durable: Promise<void>; readonly slot: number; readonly messageIds: number[] };

/** aedes reads on when what it has read is dealt with. These parts of it are not documented. */
type Internals = {
  _parsingBatch: number;
  _nextBatch(error?: Error | null): void;
  _keepaliveTimer: NodeJS.Timeout | null;
  waitForDrain(done: (error?: Error | null) => void): void;
};

/** Of one connection; what goes beyond it goes by aedes, which waits. */
const UNACKNOWLEDGED_MAX = 1_000;
const OPENING_BRACE = 0x7b;
const ASCII_MAX = 0x7f;
const PUBACK = 0x40;
const PUBACK_BYTES = 4;

export class QuickTelemetry {
  readonly #session: DeviceSession;
  readonly #messages: DeviceMessages;
  readonly #programs: Programs;
  readonly #client: Client & Internals;
  readonly #topic: string;
  #together: Together | undefined;
  #unacknowledged = 0;
  #octets: Buffer | undefined;
  #text = '';

  constructor(session: DeviceSession, messages: DeviceMessages, programs: Programs) {
    this.#session = session;
    this.#messages = messages;
    this.#programs = programs;
    this.#client = session.client as Client & Internals;
    this.#topic = telemetryTopic(session.deviceId);
  }

  /** Takes a PUBLISH of QoS 1, whose variable header and payload are `octets[from..to)`; false when it is not for this way. */
  take(octets: Buffer, from: number, to: number): boolean {
    const messageIdAt = from + 2 + this.#topic.length;
    const payloadAt = messageIdAt + 2;
    if (payloadAt >= to || to - payloadAt > MESSAGE_BYTES_MAX || octets[payloadAt] !== OPENING_BRACE || !this.#isOpen())
      return false;
    if (octets.readUInt16BE(from) !== this.#topic.length || !isAscii(octets, payloadAt, to)) return false;
    if (octets !== this.#octets) {
      this.#octets = octets;
      this.#text = octets.toString('latin1');
    }
    if (!this.#text.startsWith(this.#topic, from + 2) || this.#programs.isFollowed(this.#topic)) return false;
    // [MQTT-2.3.1-1]
    if (octets.readUInt16BE(messageIdAt) === 0) return false;
    const durable = this.#messages.takeTogether(this.#session.deviceId, this.#text.slice(payloadAt, to));
    if (durable === undefined) return false;
    this.#togetherWith(durable).messageIds.push(octets.readUInt16BE(messageIdAt));
    this.#unacknowledged += 1;
    return true;
  }

  #isOpen(): boolean {
    const { replies, isCut, held } = this.#session;
    const { connected, closed } = this.#client;
    return connected && !closed && !isCut && held === 0 && replies.waiting === 0 && this.#unacknowledged < UNACKNOWLEDGED_MAX;
  }

  /** The messages that became durable with the same promise, unless another message has taken its place in the order since. */
  #togetherWith(durable: Promise<void>): Together {
    const { replies } = this.#session;
    if (this.#together?.durable === durable && this.#together.slot === replies.slots) return this.#together;
    const together: Together = { durable, slot: replies.slots + 1, messageIds: [] };
    this.#together = together;
    this.#client._parsingBatch += 1;
    this.#client._keepaliveTimer?.refresh();
    replies.run(
      () =>
        durable.then(
          () => null,
          (error: Error) => error,
        ),
      (error) => this.#answer(together, error),
    );
    return together;
  }

  #answer(together: Together, error: Error | null): void {
    const { messageIds } = together;
    if (this.#together === together) this.#together = undefined;
    this.#unacknowledged -= messageIds.length;
    this.#octets = undefined;
    this.#text = '';
    if (this.#client.closed) return;
    // It ends the connection: what was not acknowledged is sent again over the next one.
    if (error !== null) return this.#client._nextBatch(error);
    if (this.#client.conn.write(pubacks(messageIds))) this.#client._nextBatch();
    else this.#client.waitForDrain((failure) => this.#client._nextBatch(failure));
  }
}

/** [MQTT-3.4] */
function pubacks(messageIds: readonly number[]): Buffer {
  const packets = Buffer.allocUnsafe(messageIds.length * PUBACK_BYTES);
  let at = 0;
  for (const messageId of messageIds) {
    packets[at] = PUBACK;
    packets[at + 1] = PUBACK_BYTES - 2;
    packets[at + 2] = messageId >>> 8;
    packets[at + 3] = messageId & 0xff;
    at += PUBACK_BYTES;
  }
  return packets;
}

function isAscii(octets: Buffer, from: number, to: number): boolean {
  for (let at = from; at < to; at += 1) if (octets[at]! > ASCII_MAX) return false;
  return true;
}
