import { isUtf8 } from 'node:buffer';
import { filterFault, topicFault } from '../../devices/topic-filter.ts';

/**
 * What is wrong with a packet that came in, by MQTT 3.1.1, where the parser and aedes would let it pass: text that is no UTF-8, topics and filters that are
 * none, message id 0, lengths that do not fit, packets that only servers send. Such a packet ends its connection [MQTT-4.8.0-1]; two faults of a CONNECT
 * are answered first.
 */
export type PacketFault = {
  readonly text: string;
  /** Answered with a CONNACK of this code before the connection ends. */
  readonly returnCode?: number;
  /** It is not malformed, but beyond this bound. */
  readonly bound?: 'topic_levels';
};

type Reader = {
  readonly octets: Buffer;
  at: number;
  readonly end: number;
  readonly levelsMax: number;
  isTooDeep: boolean;
};

const CONNECT = 1;
const PUBLISH = 3;
const PUBACK = 4;
const PUBCOMP = 7;
const SUBSCRIBE = 8;
const UNSUBSCRIBE = 10;
const PINGREQ = 12;
const DISCONNECT = 14;
const REFUSED_VERSION = 1;
const REFUSED_IDENTIFIER = 2;
const LEVEL_3_1 = 3;
const LEVEL_3_1_1 = 4;
const TRUNCATED = 'is shorter than what it holds';

/**
 * The packet is `octets[at..end)`, its variable header begins at `bodyAt`; topics and filters have `levelsMax` levels at the most. Undefined when nothing
 * is wrong with it, or the parser will tell.
 */
export function packetFault(octets: Buffer, at: number, bodyAt: number, end: number, levelsMax: number): PacketFault | undefined {
  const first = octets[at] ?? 0;
  const type = first >>> 4;
  const reader: Reader = { octets, at: bodyAt, end, levelsMax, isTooDeep: false };
  const fault = type === CONNECT ? connectFault(reader) : textual(faultOf(type, first & 0x0f, reader));
  return fault !== undefined && reader.isTooDeep ? { ...fault, bound: 'topic_levels' } : fault;
}

function textual(text: string | undefined): PacketFault | undefined {
  return text === undefined ? undefined : { text };
}

/** A level more than there are slashes [MQTT-4.7.1-1]. */
export function hasMoreLevels(topic: string, levelsMax: number): boolean {
  return topic.split('/', levelsMax + 1).length > levelsMax;
}

function faultOf(type: number, flags: number, reader: Reader): string | undefined {
  if (type === PUBLISH) return publishFault(flags, reader);
  if (type >= PUBACK && type <= PUBCOMP) return reader.end - reader.at === 2 ? messageIdFault(reader) : 'is not two octets long';
  if (type === SUBSCRIBE) return filtersFault(reader, 1);
  if (type === UNSUBSCRIBE) return filtersFault(reader, 0);
  if (type === PINGREQ || type === DISCONNECT) return reader.end === reader.at ? undefined : 'has a body';
  return `of type ${type} is none that a client sends`;
}

function publishFault(flags: number, reader: Reader): string | undefined {
  const qos = (flags >>> 1) & 3;
  if (qos === 3) return 'has QoS 3';
  if (qos === 0 && (flags & 0x08) !== 0) return 'has DUP with QoS 0';
  const topic = takeText(reader);
  if (typeof topic !== 'string') return topic.fault;
  return nameFault(topic, reader) ?? (qos > 0 ? messageIdFault(reader) : undefined);
}

/** A SUBSCRIBE has an octet with the QoS behind each filter. */
function filtersFault(reader: Reader, octetsBehind: number): string | undefined {
  const fault = messageIdFault(reader);
  if (fault !== undefined) return fault;
  if (reader.at === reader.end) return 'names no filter';
  while (reader.at < reader.end) {
    const filter = takeText(reader);
    if (typeof filter !== 'string') return filter.fault;
    const text = filterFault(filter) ?? levelsFault(filter, reader);
    if (text !== undefined) return `names a filter that ${text}`;
    reader.at += octetsBehind;
    if (reader.at > reader.end) return TRUNCATED;
  }
  return undefined;
}

/** Lengths are the parser's to check, and so are the flags that belong together. */
function connectFault(reader: Reader): PacketFault | undefined {
  const name = takeText(reader);
  const level = reader.octets[reader.at];
  const flags = reader.octets[reader.at + 1] ?? 0;
  if (typeof name !== 'string' || reader.at + 4 > reader.end) return { text: 'is no CONNECT' };
  if (name === 'MQTT' ? level !== LEVEL_3_1_1 : name === 'MQIsdp' && level !== LEVEL_3_1) {
    return { text: `asks for level ${level} of MQTT`, returnCode: REFUSED_VERSION };
  }
  if (name !== 'MQTT') return undefined;
  reader.at += 4;
  const clientId = takeText(reader);
  if (typeof clientId !== 'string') return { text: clientId.fault };
  const isClean = (flags & 0x02) !== 0;
  if (clientId === '' && !isClean) return { text: 'has neither a client id nor clean session 1', returnCode: REFUSED_IDENTIFIER };
  return textual(payloadFault(flags, clientId, reader));
}

/** What follows the client id: will, username and password, as far as the flags say that they are there [MQTT-3.1.3-1]. */
function payloadFault(flags: number, clientId: string, reader: Reader): string | undefined {
  if ((flags & 0x01) !== 0) return 'has the reserved flag set';
  const [hasWill, hasUsername, hasPassword] = [(flags & 0x04) !== 0, (flags & 0x80) !== 0, (flags & 0x40) !== 0];
  if (hasPassword && !hasUsername) return 'has a password without a username';
  const willQos = (flags >>> 3) & 3;
  if (willQos === 3 || (!hasWill && (flags & 0x38) !== 0)) return 'has flags of a will that do not go together';
  if (clientId.includes('\0')) return 'has a character in its client id that MQTT does not allow';
  if (hasWill) {
    const topic = takeText(reader);
    if (typeof topic !== 'string') return topic.fault;
    const fault = nameFault(topic, reader);
    if (fault !== undefined) return `has a will whose topic ${fault}`;
    if (!skipData(reader)) return TRUNCATED;
  }
  if (hasUsername) {
    const username = takeText(reader);
    if (typeof username !== 'string') return username.fault;
    if (username.includes('\0')) return 'has a character in its username that MQTT does not allow';
  }
  if (hasPassword && !skipData(reader)) return TRUNCATED;
  return reader.at === reader.end ? undefined : 'is longer than what it holds';
}

function nameFault(topic: string, reader: Reader): string | undefined {
  const fault = topicFault(topic) ?? levelsFault(topic, reader);
  return fault === undefined ? undefined : `names a topic that ${fault}`;
}

function levelsFault(topic: string, reader: Reader): string | undefined {
  const { levelsMax } = reader;
  if (!hasMoreLevels(topic, levelsMax)) return undefined;
  reader.isTooDeep = true;
  return `has more than ${levelsMax} levels`;
}

/** [MQTT-2.3.1-1] */
function messageIdFault(reader: Reader): string | undefined {
  if (reader.at + 2 > reader.end) return TRUNCATED;
  const messageId = reader.octets.readUInt16BE(reader.at);
  reader.at += 2;
  return messageId === 0 ? 'has message id 0' : undefined;
}

/** [MQTT-1.5.3-1]; a byte order mark is a character like all others [MQTT-1.5.3-3]. */
function takeText(reader: Reader): string | { readonly fault: string } {
  const from = reader.at + 2;
  if (from > reader.end) return { fault: TRUNCATED };
  const to = from + reader.octets.readUInt16BE(reader.at);
  if (to > reader.end) return { fault: TRUNCATED };
  const octets = reader.octets.subarray(from, to);
  if (!isUtf8(octets)) return { fault: 'has text that is no UTF-8' };
  reader.at = to;
  return octets.toString('utf8');
}

function skipData(reader: Reader): boolean {
  const from = reader.at + 2;
  if (from > reader.end) return false;
  reader.at = from + reader.octets.readUInt16BE(from - 2);
  return reader.at <= reader.end;
}

/** CONNACK of a refusal (MQTT 3.1.1, 3.2). */
export function connackOctets(returnCode: number): Buffer {
  return Buffer.from([0x20, 2, 0, returnCode]);
}
