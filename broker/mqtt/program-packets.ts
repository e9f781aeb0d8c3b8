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

export function publishOctets({ topic, payload, qos, retain, dup, messageId }: OutgoingPublish): Buffer {
  const name = Buffer.from(topic);
  const idBytes = qos > 0 ? 2 : 0;
  const header = Buffer.alloc(2 + name.length + idBytes);
  header.writeUInt16BE(name.length);
  name.copy(header, 2);
  if (qos > 0) header.writeUInt16BE(messageId ?? 0, 2 + name.length);
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const flags = PUBLISH | (dup ? DUP : 0) | (qos << 1) | (retain ? RETAIN : 0);
  return Buffer.concat([Buffer.from([flags, ...lengthOctets(header.length + body.length)]), header, body]);
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
