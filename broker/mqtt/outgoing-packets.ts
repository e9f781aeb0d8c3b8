/** Packets that go out, as octets (MQTT 3.1.1, 3.3, 3.6, 3.9 and 3.11). */
export type OutgoingPublish = {
  readonly topic: string;
  readonly payload: Buffer | string;
  readonly qos: number;
  readonly retain: boolean;
  readonly dup: boolean;
  /** With QoS 1 and 2 alone. */
  readonly messageId?: number | undefined;
};

const PUBLISH = 0x30;
const DUP = 0x08;
const RETAIN = 0x01;
/** With the flags that it always has [MQTT-3.6.1-1]. */
const PUBREL = 0x62;
const SUBACK = 0x90;
const UNSUBACK = 0xb0;

export function publishOctets({ topic, payload, qos, retain, dup, messageId = 0 }: OutgoingPublish): Buffer {
  const topicBytes = Buffer.byteLength(topic);
  const payloadBytes = Buffer.byteLength(payload);
  const remaining = 2 + topicBytes + (qos > 0 ? 2 : 0) + payloadBytes;
  const length = lengthOctets(remaining);
  const octets = Buffer.allocUnsafe(1 + length.length + remaining);
  let at = octets.writeUInt8(PUBLISH | (dup ? DUP : 0) | (qos << 1) | (retain ? RETAIN : 0));
  for (const octet of length) at = octets.writeUInt8(octet, at);
  at = octets.writeUInt16BE(topicBytes, at);
  at += octets.write(topic, at);
  if (qos > 0) at = octets.writeUInt16BE(messageId, at);
  if (typeof payload === 'string') octets.write(payload, at);
  else payload.copy(octets, at);
  return octets;
}

export function pubrelOctets(messageId: number): Buffer {
  return Buffer.from([PUBREL, 2, messageId >>> 8, messageId & 0xff]);
}

/** A code for each filter of the SUBSCRIBE, in their order [MQTT-3.9.3-1]. */
export function subackOctets(messageId: number, codes: readonly number[]): Buffer {
  const header = [SUBACK, ...lengthOctets(2 + codes.length), messageId >>> 8, messageId & 0xff];
  return Buffer.concat([Buffer.from(header), Buffer.from(codes)]);
}

export function unsubackOctets(messageId: number): Buffer {
  return Buffer.from([UNSUBACK, 2, messageId >>> 8, messageId & 0xff]);
}

/** Seven bits an octet, the lowest first [MQTT-2.2.3]. */
function lengthOctets(length: number): number[] {
  const octets: number[] = [];
  let rest = length;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    octets.push(rest > 0 ? low | 0x80 : low);
  } while (rest > 0);
  return octets;
}
