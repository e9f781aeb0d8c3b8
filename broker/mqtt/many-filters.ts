import type { Client, Subscriptions, UnsubscribePacket } from 'aedes';
import { packetFault, type PacketFault } from './packet-faults.ts';
import { subackOctets, unsubackOctets } from './outgoing-packets.ts';
import type { ReadingTurns } from './reading-turns.ts';

/**
 * A SUBSCRIBE or UNSUBSCRIBE of many filters, of which one packet may hold some hundred thousand: looked at, and handed to aedes, a piece at a turn. It is
 * answered with one SUBACK or UNSUBACK once all of it is done [MQTT-3.8.4-5], and what comes behind it waits for that.
 */
type Subscribing = {
  /** Its first octet. */
  readonly type: number;
  /** Variable header and payload. */
  readonly body: Buffer;
  readonly topicLevelsMax: number;
};

type Filter = { readonly topic: string; readonly qos: 0 | 1 | 2 };

/** A part of aedes that it does not document. */
type Internals = {
  readonly broker: { readonly persistence: { removeSubscriptions(client: object, topics: readonly string[]): Promise<unknown> } };
};

const SUBSCRIBE = 0x82;
const UNSUBSCRIBE = 0xa2;
/** Of a message id, and of a filter's length. */
const NUMBER_BYTES = 2;
const QOS_MAX = 2;
const REFUSED = 0x80;
/** Filters of one packet that are dealt with in one turn. */
const FILTERS_A_TURN = 50;

/**
 * Whether a packet is a SUBSCRIBE or UNSUBSCRIBE, whose body is `octets[bodyAt..end)`, for this way: it has more filters than are dealt with at once, or asks
 * twice for the same, for which aedes answers one code only [MQTT-3.9.3-1].
 */
export function isForPieces(octets: Buffer, at: number, bodyAt: number, end: number): boolean {
  const type = octets[at];
  if ((type !== SUBSCRIBE && type !== UNSUBSCRIBE) || end - bodyAt <= NUMBER_BYTES) return false;
  if (pieceEnd(octets, bodyAt + NUMBER_BYTES, end, octetsBehind(type)) < end) return true;
  return type === SUBSCRIBE && repeatsFilter(octets, bodyAt + NUMBER_BYTES, end);
}

/** Takes the packet and answers it. Resolves with what is wrong with it, which ends the connection; rejects with what aedes would end it for. */
export async function takeInPieces(client: Client, packet: Subscribing, turns: ReadingTurns): Promise<PacketFault | undefined> {
  let isGone: () => void = () => {};
  // aedes does not call back about a client that is closed.
  const gone = new Promise<undefined>((resolve) => (isGone = () => resolve(undefined)));
  client.conn.once('close', isGone);
  return Promise.race([take(client, packet, turns), gone]).finally(() => client.conn.off('close', isGone));
}

async function take(client: Client, packet: Subscribing, turns: ReadingTurns): Promise<PacketFault | undefined> {
  const { type, body } = packet;
  const filters: Filter[] = [];
  for (let from = NUMBER_BYTES; from < body.length; await turns.pass()) {
    const to = pieceEnd(body, from, body.length, octetsBehind(type));
    const fault = pieceFault(packet, from, to);
    if (fault !== undefined) return fault;
    if (!readFilters(packet, from, to, filters)) return { text: 'asks for a QoS that there is not' };
    from = to;
  }
  await letIn(client);
  // What is there twice counts once, as it is there last.
  const distinct = [...new Map(filters.map((filter) => [filter.topic, filter])).values()];
  const isSubscribe = type === SUBSCRIBE;
  const granted = new Map<string, number>();
  for (let from = 0; from < distinct.length && !client.closed; from += FILTERS_A_TURN) {
    const piece = distinct.slice(from, from + FILTERS_A_TURN);
    if (isSubscribe) for (const [topic, qos] of await subscribe(client, piece)) granted.set(topic, qos);
    else await unsubscribe(client, piece);
    await turns.pass();
  }
  if (client.closed) return undefined;
  const messageId = body.readUInt16BE(0);
  const codes = filters.map(({ topic }) => granted.get(topic) ?? REFUSED);
  client.conn.write(isSubscribe ? subackOctets(messageId, codes) : unsubackOctets(messageId));
  return undefined;
}

/** The QoS granted of each, or 0x80. */
async function subscribe(client: Client, piece: readonly Filter[]): Promise<(readonly [string, number])[]> {
  const subscriptions = piece.map(({ topic, qos }) => ({ topic, qos: qos as number }));
  // Without a message id aedes does not answer it, and notes there what it grants.
  await called((done) => client.subscribe({ subscriptions } as Subscriptions, done));
  return subscriptions.map(({ topic, qos }) => [topic, qos]);
}

async function unsubscribe(client: Client & Partial<Internals>, piece: readonly Filter[]): Promise<void> {
  const unsubscriptions = piece.map(({ topic }) => topic);
  // Without a message id aedes leaves that to others.
  if (!client.clean) await client.broker?.persistence.removeSubscriptions(client, unsubscriptions);
  await called((done) => client.unsubscribe({ unsubscriptions } as UnsubscribePacket, done));
}

function called(call: (done: (error?: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => call((error) => (error ? reject(error) : resolve())));
}

/** Its CONNECT, which came before, may be under way. */
async function letIn(client: Client): Promise<void> {
  if (!client.connected) await new Promise<void>((resolve) => client.once('connected', resolve));
}

/** As of a packet that has these filters alone. */
function pieceFault({ type, body, topicLevelsMax }: Subscribing, from: number, to: number): PacketFault | undefined {
  const piece = Buffer.concat([Buffer.from([type]), body.subarray(0, NUMBER_BYTES), body.subarray(from, to)]);
  return packetFault(piece, 0, 1, piece.length, topicLevelsMax);
}

/** False when one asks for QoS 3 [MQTT-3.8.3-4]. */
function readFilters({ type, body }: Subscribing, from: number, to: number, filters: Filter[]): boolean {
  for (let at = from; at < to;) {
    const topicAt = at + NUMBER_BYTES;
    const topicEnd = topicAt + body.readUInt16BE(at);
    const qos = type === SUBSCRIBE ? body[topicEnd]! : 0;
    if (qos > QOS_MAX) return false;
    filters.push({ topic: body.toString('utf8', topicAt, topicEnd), qos: qos as Filter['qos'] });
    at = topicEnd + octetsBehind(type);
  }
  return true;
}

function repeatsFilter(octets: Buffer, from: number, end: number): boolean {
  const seen = new Set<string>();
  for (let at = from; at + NUMBER_BYTES <= end;) {
    const topicAt = at + NUMBER_BYTES;
    const topicEnd = topicAt + octets.readUInt16BE(at);
    const octetsOfTopic = octets.toString('latin1', topicAt, Math.min(topicEnd, end));
    if (seen.has(octetsOfTopic)) return true;
    seen.add(octetsOfTopic);
    at = topicEnd + 1;
  }
  return false;
}

/** Where as many filters end, from `from` on, as are dealt with in one turn; `end` when no more are left, or they are not whole. */
function pieceEnd(octets: Buffer, from: number, end: number, octetsBehindEach: number): number {
  let at = from;
  for (let filters = 0; filters < FILTERS_A_TURN && at < end; filters += 1) {
    if (at + NUMBER_BYTES > end) return end;
    at += NUMBER_BYTES + octets.readUInt16BE(at) + octetsBehindEach;
  }
  return Math.min(at, end);
}

/** A SUBSCRIBE has an octet with the QoS behind each filter. */
function octetsBehind(type: number): number {
  return type === SUBSCRIBE ? 1 : 0;
}
