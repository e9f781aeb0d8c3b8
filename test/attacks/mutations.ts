import fc, { type Arbitrary } from 'fast-check';
import { generate } from 'mqtt-packet';
import { connectPacket, PINGREQ, publishPacket, rawPublish, remainingLength, sized, subscribePacket } from './raw-mqtt.ts';

/** MQTT packets as a client would send them, and what becomes of them in the hands of an attacker. */
export type Victim = { readonly id: string; readonly token: string };

function wellFormed({ id, token }: Victim): Buffer[] {
  const own = `devices/${id}`;
  const acknowledgements = (['puback', 'pubrec', 'pubrel', 'pubcomp'] as const).map((cmd) => generate({ cmd, messageId: 7 }));
  return [
    connectPacket(id, token),
    connectPacket(id, token, { clean: false, keepalive: 65_535 }),
    connectPacket(id, token, {
      will: { topic: `${own}/telemetry`, payload: Buffer.from('{"gone":1}'), qos: 1, retain: true },
    }),
    connectPacket('', token),
    publishPacket(`${own}/telemetry`, '{"x":1}', { qos: 0 }),
    publishPacket(`${own}/telemetry`, '{"x":2}', { messageId: 3 }),
    publishPacket(`${own}/telemetry`, '{"x":3}', { qos: 2, messageId: 4 }),
    publishPacket(`${own}/commands/0199`, '{"state":"running"}', { messageId: 5 }),
    rawPublish(`${own}/telemetry`, '{"x":4}', 0),
    subscribePacket([`${own}/commands`, `${own}/errors`]),
    generate({ cmd: 'unsubscribe', messageId: 9, unsubscriptions: [`${own}/commands`] }),
    ...acknowledgements,
    PINGREQ,
    generate({ cmd: 'disconnect' }),
    // What only a server says.
    generate({ cmd: 'connack', returnCode: 0, sessionPresent: true }),
    generate({ cmd: 'suback', messageId: 9, granted: [0] }),
    generate({ cmd: 'pingresp' }),
    Buffer.concat([Buffer.from([0x82]), remainingLength(2), Buffer.from([0, 1])]),
    Buffer.concat([Buffer.from([0x30]), remainingLength(5), sized('a#b')]),
  ];
}

type Mutation = (octets: Buffer) => Buffer;

const at = fc.double({ min: 0, max: 0.999_999, noNaN: true });
const octet = fc.integer({ min: 0, max: 255 });

const mutation: Arbitrary<Mutation> = fc.oneof(
  fc.tuple(at, octet).map(([place, value]): Mutation => (octets) => {
    const changed = Buffer.from(octets);
    if (changed.length > 0) changed[Math.floor(place * changed.length)] = value;
    return changed;
  }),
  at.map(
    (place): Mutation =>
      (octets) =>
        octets.subarray(0, Math.floor(place * octets.length)),
  ),
  fc.tuple(at, fc.uint8Array({ maxLength: 12 })).map(([place, more]): Mutation => (octets) => {
    const cut = Math.floor(place * octets.length);
    return Buffer.concat([octets.subarray(0, cut), more, octets.subarray(cut)]);
  }),
  octet.map(
    (value): Mutation =>
      (octets) =>
        Buffer.concat([Buffer.from([value]), octets.subarray(1)]),
  ),
  // A length that lies.
  fc.nat(400).map((length): Mutation => (octets) => {
    return Buffer.concat([octets.subarray(0, 1), remainingLength(length), octets.subarray(2)]);
  }),
  fc.constant<Mutation>((octets) => Buffer.concat([octets, octets])),
);

/** What one connection says: some of it well-formed, most of it broken in one to four places, some of it noise. */
export function conversation(victim: Victim): Arbitrary<Buffer[]> {
  const packets = wellFormed(victim);
  const broken = fc
    .tuple(fc.constantFrom(...packets), fc.array(mutation, { minLength: 1, maxLength: 4 }))
    .map(([packet, mutations]) => mutations.reduce((octets, mutate) => mutate(octets), packet));
  const noise = fc.uint8Array({ minLength: 1, maxLength: 64 }).map((octets) => Buffer.from(octets));
  return fc.array(
    fc.oneof(
      { weight: 6, arbitrary: broken },
      { weight: 1, arbitrary: noise },
      { weight: 2, arbitrary: fc.constantFrom(...packets) },
    ),
    { minLength: 1, maxLength: 5 },
  );
}
