/** A message as aedes' persistence hands it about, and as text for State. */
export type StoredPacket = {
  cmd: string;
  topic: string;
  payload: Buffer | string;
  qos: number;
  retain: boolean;
  dup: boolean;
  brokerId?: string | undefined;
  brokerCounter?: number | undefined;
  messageId?: number | undefined;
};

export type GivenPacket = Partial<StoredPacket>;

/** As aedes-packet makes them: the known fields alone, and no message id yet. */
export function storedPacket(given: GivenPacket): StoredPacket {
  return {
    cmd: given.cmd ?? 'publish',
    brokerId: given.brokerId,
    brokerCounter: given.brokerCounter ?? 0,
    topic: given.topic ?? '',
    payload: given.payload ?? Buffer.alloc(0),
    qos: given.qos ?? 0,
    retain: given.retain ?? false,
    dup: given.dup ?? false,
    messageId: undefined,
  };
}

export function packetText(packet: GivenPacket): string {
  return JSON.stringify({ ...packet, payload: Buffer.from(packet.payload ?? '').toString('base64') });
}

export function packetFrom(kept: GivenPacket & { payload?: string }): StoredPacket {
  return { ...storedPacket(kept), messageId: kept.messageId, payload: Buffer.from(kept.payload ?? '', 'base64') };
}

export function packetBytes({ topic, payload }: GivenPacket): number {
  return Buffer.byteLength(topic ?? '') + Buffer.byteLength(payload ?? '');
}

/** A part of a State key: whatever the text is, it has neither `/` nor anything that sorts past the end of a scan. */
export function keyPart(text: string): string {
  return Buffer.from(text).toString('base64url');
}

export function textOfKeyPart(part: string): string {
  return Buffer.from(part, 'base64url').toString();
}
