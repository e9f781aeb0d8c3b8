import type { Client } from 'aedes';
import { holdReads, letReads, readInTurn, type Reading, type Turn } from './read-gate.ts';
import { isForPieces, takeInPieces } from './many-filters.ts';
import { packetFault, type PacketFault } from './packet-faults.ts';
import type { ReadingTurns } from './reading-turns.ts';

/**
 * Cuts what a connection sends into packets before aedes parses them, for four reasons. What one read has brought may keep everybody else waiting: it is
 * dealt with after all else that has come, a slice at a turn, and nothing is read until it is. aedes gathers a packet whole, however long it says
 * it is: here one over the bound ends the connection before its body has come in. It lets packets pass that are malformed. And the most frequent packet by far, a PUBLISH with
 * QoS 1, is offered to `takePublish` first: aedes would spend more on passing it on to nobody than all the rest of its way costs.
 */
export type PacketBounds = {
  /** Of what follows the fixed header; of the first packet, and of those after it. */
  readonly connectBytesMax: number;
  readonly packetBytesMax: number;
  readonly topicLevelsMax: number;
  /** Ends the connection. */
  readonly onRefused: (bound: 'connect_bytes' | 'packet_bytes' | 'topic_levels') => void;
  /** What one read has brought: packets that are whole now, octets, and whether none is left in part. */
  readonly onRead: (packets: number, bytes: number, isWhole: boolean) => void;
};

export type PacketReaderOptions = PacketBounds & {
  /** Ends the connection, which has sent what no client may send. */
  readonly onFault: (fault: PacketFault) => void;
  readonly turns: ReadingTurns;
  /** A PUBLISH with QoS 1, its variable header and payload being `chunk[from..to)`. False leaves it to aedes. */
  readonly takePublish: (chunk: Buffer, from: number, to: number) => boolean;
};

/** Parts of aedes that it does not document. It reads on when the packets that it has read are dealt with. */
type Internals = {
  readonly _parser: { parse(chunk: Buffer): number };
  readonly _paused?: boolean;
  _parsingBatch: number;
  _nextBatch(error?: Error): void;
};

/** Packets that are dealt with before the time is looked at. */
const PACKETS_AT_LEAST = 4;

const CONNECT = 0x10;
const PUBLISH_QOS_1 = 0x32;
const DISCONNECT = 0xe0;
/** All of the first octet but DUP and RETAIN [MQTT-3.3.1]. */
const TYPE_AND_QOS = 0xf6;
/** A remaining length takes one to four octets of seven bits, the last without the high bit [MQTT-2.2.3]. */
const LENGTH_OCTETS_MAX = 4;
const GOES_ON = 0x80;

export function readPackets(client: Client, options: PacketReaderOptions): void {
  const reader = new PacketReader(client as Client & Internals, options);
  readInTurn(client.conn, reader);
  (client as Client & Internals)._parser.parse = (chunk) => {
    reader.take(chunk);
    return 0;
  };
}

class PacketReader implements Reading {
  readonly #client: Client & Internals;
  readonly #parse: (packets: Buffer) => void;
  readonly #options: PacketReaderOptions;
  /** What has come in and is yet to be looked at: once it is as long as the packet that it begins with. */
  #pieces: Buffer[] = [];
  #piecesBytes = 0;
  #wantedBytes = 1;
  #isReading = false;
  #isFirst = true;
  /** What is left waits: for another turn, or for the packet that is under way. */
  #isWaiting = false;
  /** Nothing is read meanwhile. */
  #isHeld = false;
  /** Come since the last word of them. */
  #packets = 0;
  #bytes = 0;

  constructor(client: Client & Internals, options: PacketReaderOptions) {
    this.#client = client;
    this.#parse = client._parser.parse.bind(client._parser);
    this.#options = options;
  }

  lineUp(turn: Turn): void {
    this.#options.turns.lineUp(turn);
  }

  mayRead(): boolean {
    return this.#client._paused !== true;
  }

  take(chunk: Buffer): void {
    this.#pieces.push(chunk);
    this.#bytes += chunk.length;
    this.#piecesBytes += chunk.length;
    // aedes may read on while it is given a packet.
    if (this.#isReading) return;
    this.#takeOn();
  }

  #takeOn(): void {
    this.#isReading = true;
    const until = this.#options.turns.begin();
    while (this.#piecesBytes >= this.#wantedBytes && !this.#isWaiting) {
      const octets = this.#pieces.length === 1 ? this.#pieces[0]! : Buffer.concat(this.#pieces);
      this.#pieces = [];
      this.#piecesBytes = 0;
      this.#wantedBytes = 1;
      const rest = octets.subarray(this.#takePackets(octets, until));
      if (rest.length === 0) continue;
      this.#pieces.unshift(rest);
      this.#piecesBytes += rest.length;
    }
    this.#isReading = false;
    if (this.#isWaiting) this.#hold();
    this.#options.onRead(this.#packets, this.#bytes, this.#piecesBytes === 0 || this.#isHeld);
    this.#bytes = 0;
    this.#packets = 0;
  }

  #takeInPieces(type: number, body: Buffer): void {
    const { turns, topicLevelsMax, onFault, onRefused } = this.#options;
    this.#isWaiting = true;
    takeInPieces(this.#client, { type, body, topicLevelsMax }, turns).then(
      (fault) => {
        if (fault === undefined) this.#goOn();
        else if (fault.bound === undefined) onFault(fault);
        else onRefused(fault.bound);
      },
      (error: Error) => this.#client._nextBatch(error),
    );
  }

  /**
   * Nothing is read until what has come is dealt with. The last octet of it goes back into the stream, which else would tell of its end, and aedes would close
   * the connection, before that.
   */
  #hold(): void {
    if (this.#isHeld) return;
    this.#isHeld = true;
    const { conn } = this.#client;
    holdReads(conn, this);
    this.#client._parsingBatch += 1;
    if (this.#piecesBytes === 0) return;
    const octets = Buffer.concat(this.#pieces);
    this.#piecesBytes = octets.length - 1;
    this.#pieces = [octets.subarray(0, this.#piecesBytes)];
    conn.unshift(octets.subarray(this.#piecesBytes));
    this.#bytes -= 1;
  }

  readonly #goOn = (): void => {
    this.#isWaiting = false;
    if (this.#client.closed) this.#pieces = [];
    else this.#takeOn();
    if (this.#isWaiting) return;
    this.#isHeld = false;
    letReads(this.#client.conn, this);
    if (this.#client.closed) return;
    // Paused, it does not count; it reads on when it is paused no more.
    if (this.#client._paused === true) this.#client._parsingBatch = Math.max(0, this.#client._parsingBatch - 1);
    else this.#client._nextBatch();
  };

  /** Returns where the packets end that were taken, since no more are whole, or the rest waits; the end of `octets` when the connection ends with them. */
  #takePackets(octets: Buffer, until: number): number {
    const { turns, packetBytesMax, topicLevelsMax, onRefused, onFault, takePublish } = this.#options;
    /** From here up to `at` are whole packets for aedes. */
    let from = 0;
    let at = 0;
    let taken = 0;
    let hasEnded = false;
    while (at < octets.length) {
      if (this.#isFirst && !this.#isConnect(octets, at)) return octets.length;
      const bodyAt = bodyOf(octets, at);
      if (bodyAt === MALFORMED) {
        // aedes ends the connection for it, in its own words.
        at = octets.length;
        break;
      }
      const length = bodyAt > octets.length ? 0 : remainingLength(octets, at, bodyAt);
      if (length > packetBytesMax) {
        if (from < at) this.#parse(octets.subarray(from, at));
        onRefused('packet_bytes');
        return octets.length;
      }
      const end = bodyAt + length;
      if (end > octets.length) {
        this.#wantedBytes = end - at;
        break;
      }
      this.#isFirst = false;
      this.#packets += 1;
      const isOffered = (octets[at]! & TYPE_AND_QOS) === PUBLISH_QOS_1;
      hasEnded = octets[at] === DISCONNECT;
      // What came before it goes before it.
      if (isOffered && from < at) this.#parse(octets.subarray(from, at));
      if (isOffered) from = at;
      if (isOffered && takePublish(octets, bodyAt, end)) {
        from = end;
      } else if (isForPieces(octets, at, bodyAt, end)) {
        if (from < at) this.#parse(octets.subarray(from, at));
        this.#takeInPieces(octets[at]!, Buffer.from(octets.subarray(bodyAt, end)));
        return end;
      } else {
        const fault = packetFault(octets, at, bodyAt, end, topicLevelsMax);
        if (fault !== undefined) {
          if (from < at) this.#parse(octets.subarray(from, at));
          if (fault.bound === undefined) onFault(fault);
          else onRefused(fault.bound);
          return octets.length;
        }
      }
      at = end;
      // [MQTT-3.14.4-2]: nothing comes after it.
      if (hasEnded) break;
      taken += 1;
      if (taken % PACKETS_AT_LEAST > 0 || at === octets.length) continue;
      if (from < at) this.#parse(octets.subarray(from, at));
      from = at;
      if (!turns.isOver(until)) continue;
      this.#isWaiting = true;
      turns.wait(this.#goOn);
      break;
    }
    if (from < at) this.#parse(octets.subarray(from, at));
    return hasEnded ? octets.length : at;
  }

  /** [MQTT-3.1.0-1]: nothing is gathered of a first packet that is another, or claims more than a CONNECT needs. */
  #isConnect(octets: Buffer, at: number): boolean {
    const { connectBytesMax, onRefused } = this.#options;
    const bodyAt = bodyOf(octets, at);
    const isMalformed = octets[at] !== CONNECT || bodyAt === MALFORMED;
    if (!isMalformed && (bodyAt > octets.length || remainingLength(octets, at, bodyAt) <= connectBytesMax)) return true;
    onRefused('connect_bytes');
    return false;
  }
}

const MALFORMED = -1;

/** Where the body of the packet at `at` begins, which is past the end of `octets` when its length has not come in whole. */
function bodyOf(octets: Buffer, at: number): number {
  for (let last = at + 1; last <= at + LENGTH_OCTETS_MAX; last += 1) {
    if (last >= octets.length || octets[last]! < GOES_ON) return last + 1;
  }
  return MALFORMED;
}

function remainingLength(octets: Buffer, at: number, bodyAt: number): number {
  let length = 0;
  for (let octet = bodyAt - 1; octet > at; octet -= 1) length = length * GOES_ON + (octets[octet]! & (GOES_ON - 1));
  return length;
}
