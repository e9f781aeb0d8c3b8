import type { Client } from 'aedes';

/**
 * Cuts what a connection sends into packets before aedes parses them, for two reasons. aedes gathers a packet whole, however long it says
 * it is: here one over the bound ends the connection before its body has come in. And the most frequent packet by far, a PUBLISH with
 * QoS 1, is offered to `takePublish` first: aedes would spend more on passing it on to nobody than all the rest of its way costs.
 */
export type PacketReaderOptions = {
  /** Of what follows the fixed header. */
  readonly packetBytesMax: number;
  /** Ends the connection. */
  readonly onTooLong: () => void;
  /** A PUBLISH with QoS 1, its variable header and payload being `chunk[from..to)`. False leaves it to aedes. */
  readonly takePublish: (chunk: Buffer, from: number, to: number) => boolean;
};

/** A part of aedes that it does not document. */
type Parser = { parse(chunk: Buffer): number };

const PUBLISH_QOS_1 = 0x32;
/** All of the first octet but DUP and RETAIN [MQTT-3.3.1]. */
const TYPE_AND_QOS = 0xf6;
/** A remaining length takes one to four octets of seven bits, the last without the high bit [MQTT-2.2.3]. */
const LENGTH_OCTETS_MAX = 4;
const GOES_ON = 0x80;

export function readPackets(client: Client, options: PacketReaderOptions): void {
  const parser = (client as unknown as { _parser: Parser })._parser;
  const reader = new PacketReader(parser.parse.bind(parser), options);
  parser.parse = (chunk) => {
    reader.read(chunk);
    return 0;
  };
}

class PacketReader {
  readonly #parse: (packets: Buffer) => void;
  readonly #options: PacketReaderOptions;
  /** What has come in and is yet to be looked at: once it is as long as the packet that it begins with. */
  #pieces: Buffer[] = [];
  #piecesBytes = 0;
  #wantedBytes = 1;
  #isReading = false;

  constructor(parse: (packets: Buffer) => void, options: PacketReaderOptions) {
    this.#parse = parse;
    this.#options = options;
  }

  read(chunk: Buffer): void {
    this.#pieces.push(chunk);
    this.#piecesBytes += chunk.length;
    // aedes may read on while it is given a packet.
    if (this.#isReading) return;
    this.#isReading = true;
    while (this.#piecesBytes >= this.#wantedBytes) {
      const [first = chunk, ...others] = this.#pieces;
      const octets = others.length === 0 ? first : Buffer.concat(this.#pieces);
      this.#pieces = [];
      this.#piecesBytes = 0;
      this.#wantedBytes = 1;
      const rest = octets.subarray(this.#takePackets(octets));
      if (rest.length === 0) continue;
      this.#pieces.unshift(rest);
      this.#piecesBytes += rest.length;
    }
    this.#isReading = false;
  }

  /** Returns where the packets that are whole end; the end of `octets` when the connection ends with them. */
  #takePackets(octets: Buffer): number {
    const { packetBytesMax, onTooLong, takePublish } = this.#options;
    /** From here up to `at` are whole packets for aedes. */
    let from = 0;
    let at = 0;
    while (at < octets.length) {
      const bodyAt = bodyOf(octets, at);
      if (bodyAt === MALFORMED) {
        // aedes ends the connection for it, in its own words.
        at = octets.length;
        break;
      }
      const length = bodyAt > octets.length ? 0 : remainingLength(octets, at, bodyAt);
      if (length > packetBytesMax) {
        if (from < at) this.#parse(octets.subarray(from, at));
        onTooLong();
        return octets.length;
      }
      const end = bodyAt + length;
      if (end > octets.length) {
        this.#wantedBytes = end - at;
        break;
      }
      if ((octets[at]! & TYPE_AND_QOS) === PUBLISH_QOS_1) {
        // What came before it goes before it.
        if (from < at) this.#parse(octets.subarray(from, at));
        from = takePublish(octets, bodyAt, end) ? end : at;
      }
      at = end;
    }
    if (from < at) this.#parse(octets.subarray(from, at));
    return at;
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
