import type { Duplex } from 'node:stream';
import type { Client } from 'aedes';
import { SECOND_MS } from '../../devices/clock.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { ErrorCode } from '../../devices/error-codes.ts';
import { BOUNDS, type BoundName } from '../bounds.ts';
import type { Limits } from '../limits/limits.ts';
import { holdReads, letReads } from './read-gate.ts';
import { takeLargeMessages } from './websocket.ts';

/**
 * One MQTT connection under the bounds. It is in one of these modes:
 *
 *   entering  its CONNECT is to come, and to be answered
 *   open      it is let in
 *   slowed    it has sent faster than it may, so it is not read until that is made up for; then it is open again
 *   ended     a bound closed it, or it closed
 */
type Mode = 'entering' | 'open' | 'slowed' | 'ended';

export type ConnectionParts = {
  readonly limits: Limits;
  readonly stream: Duplex;
  readonly client: Client;
  readonly address: string;
  /** Tells the device, once a minute at the most, and while its connection is there. */
  readonly tell: (deviceId: string, error: DownlinkError) => void;
};

/** Parts of aedes that it does not document: it reads on when what it has read is dealt with. */
type Internals = { _nextBatch(): void };

/** Without being slowed for so long, it has come to its senses. */
const CALM_MS = 5_000;
const CODE_OF: { readonly [bound in BoundName]?: ErrorCode } = {
  packet_bytes: 'body_too_large',
  topic_bytes: 'unknown_topic',
  topic_levels: 'unknown_topic',
};
/** For what it is told to be on its way before its connection closes. */
const TELL_MS = 100;

export class ConnectionBounds {
  readonly #parts: ConnectionParts;
  readonly #openedAt: number;
  #mode: Mode = 'entering';
  /** A device's id, or `key:` and a key's. */
  #identity: string | undefined;
  #lastReadAt: number;
  /** When the packet began that is yet to come whole; 0: there is none. */
  #partialSince = 0;
  /** When it was first slowed, and last; 0: not lately. */
  #slowedSince = 0;
  #slowedAt = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: ConnectionParts) {
    this.#parts = parts;
    this.#openedAt = parts.limits.now();
    this.#lastReadAt = this.#openedAt;
  }

  get address(): string {
    return this.#parts.address;
  }

  get isLetIn(): boolean {
    return this.#identity !== undefined;
  }

  letIn(identity: string): void {
    const { stream, limits } = this.#parts;
    this.#identity = identity;
    takeLargeMessages(stream, limits.bounds.packet_bytes);
  }

  /** So many packets, filters of a SUBSCRIBE among them, and octets have come with one read; `isWhole` when no packet is left in part. */
  took(packets: number, bytes: number, isWhole: boolean): void {
    if (this.#mode === 'ended') return;
    const { limits } = this.#parts;
    const now = limits.now();
    this.#lastReadAt = now;
    if (isWhole) this.#partialSince = 0;
    else if (packets > 0 || this.#partialSince === 0) this.#partialSince = now;
    if (this.#identity === undefined) return;
    const messagesMs = limits.messages.owe(this.#identity, packets);
    const bytesMs = limits.bytes.owe(this.#identity, bytes);
    if (messagesMs > 0 || bytesMs > 0) {
      this.#slow(messagesMs >= bytesMs ? 'messages_per_second' : 'bytes_per_second', Math.max(messagesMs, bytesMs));
    }
  }

  /** False when the topic or filter is longer than may be. */
  takesTopic(topic: string): boolean {
    const max = this.#parts.limits.bounds.topic_bytes;
    // No character of a string takes more than three octets of UTF-8.
    return topic.length * 3 <= max || Buffer.byteLength(topic) <= max;
  }

  /** Called about once a second: what lasts too long ends. */
  check(now: number): void {
    const { limits, stream, client } = this.#parts;
    const { bounds } = limits;
    const isOver = (since: number, bound: BoundName): boolean => now - since > bounds[bound] * SECOND_MS;
    if (this.#mode === 'ended') return;
    if (this.#mode === 'entering') {
      if (client.connected) this.#mode = 'open';
      else if (isOver(this.#openedAt, 'connect_seconds')) return this.end('connect_seconds');
    }
    // What has come and is not read is no fault of the client's.
    if (this.#mode === 'slowed' || stream.readableLength > 0) {
      if (this.#partialSince !== 0) this.#partialSince = now;
      this.#lastReadAt = now;
    }
    if (this.#partialSince !== 0 && isOver(this.#partialSince, 'packet_seconds')) return this.end('packet_seconds');
    if (isOver(this.#lastReadAt, 'idle_seconds')) return this.end('idle_seconds');
    if (this.#slowedSince === 0) return;
    if (this.#mode !== 'slowed' && now - this.#slowedAt > CALM_MS) this.#slowedSince = 0;
    else if (isOver(this.#slowedSince, 'slowed_seconds')) this.end('slowed_seconds');
  }

  /** A bound was reached that nothing else will do for: closes the connection. */
  end(bound: BoundName): void {
    if (this.#mode === 'ended') return;
    const { stream } = this.#parts;
    const isTold = this.#reached(bound, 'the connection is closed');
    if (this.#mode !== 'slowed') holdReads(stream, this);
    this.close();
    if (!isTold) stream.destroy();
    else setTimeout(() => stream.destroy(), TELL_MS);
  }

  /** The connection is no more. */
  close(): void {
    this.#mode = 'ended';
    clearTimeout(this.#timer);
  }

  #slow(bound: BoundName, ms: number): void {
    const { limits, stream } = this.#parts;
    this.#slowedAt = limits.now();
    if (this.#slowedSince === 0) {
      this.#slowedSince = this.#slowedAt;
      this.#reached(bound, 'it is read more slowly');
    }
    if (this.#mode === 'slowed') clearTimeout(this.#timer);
    else if (this.#mode !== 'ended') holdReads(stream, this);
    this.#mode = 'slowed';
    this.#timer = setTimeout(() => this.#goOn(), Math.ceil(ms));
  }

  #goOn(): void {
    const { stream, client } = this.#parts;
    if (this.#mode !== 'slowed') return;
    this.#mode = 'open';
    letReads(stream, this);
    (client as Client & Internals)._nextBatch();
  }

  /** True when the device is told. */
  #reached(bound: BoundName, consequence: string): boolean {
    const { limits, address, tell } = this.#parts;
    const identity = this.#identity;
    const isDevice = identity !== undefined && !identity.includes(':');
    limits.reached(bound, { address, ...(identity !== undefined && { client: identity }) });
    if (!isDevice || !limits.mayTell(identity)) return false;
    tell(
      identity,
      new DownlinkError(
        CODE_OF[bound] ?? 'rate_limited',
        `${bound} (${limits.bounds[bound]}) is reached: ${consequence}. ${BOUNDS[bound].text}`,
      ),
    );
    return true;
  }
}
