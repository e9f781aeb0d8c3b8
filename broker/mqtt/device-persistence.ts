import { Readable } from 'node:stream';
import memory from 'aedes-persistence';
import { isDownTopic } from '../../devices/topics.ts';

/**
 * What aedes remembers of devices' MQTT sessions: subscriptions and QoS 2 handshakes, in memory. Outgoing messages are not kept, because a
 * device's queue in the ledger is the truth, with or without a session; a PUBACK is passed on instead.
 */
export type Puback = (client: object, messageId: number) => void;

export type Pubrel = (client: object, messageId: number) => Promise<void>;

type PacketId = { readonly messageId?: number | undefined };

/** The part of aedes' persistence that Downlink itself calls. */
export type DevicePersistence = {
  /** Rejects when the QoS 2 message is not one that waits for its PUBREL. */
  incomingGetPacket(client: object, packet: PacketId & { cmd?: string }): Promise<object>;
  incomingStorePacket(client: object, packet: PacketId): Promise<void>;
  addSubscriptions(client: { readonly id: string }, subscriptions: readonly { readonly topic: string }[]): Promise<void>;
};

// Its types describe the callback interface of older versions.
const memoryPersistence = memory as unknown as () => DevicePersistence;

/** `onPubrel` resolves when the QoS 2 message's id is free; PUBCOMP waits for it. */
export function devicePersistence(onPuback: Puback, onPubrel: Pubrel): DevicePersistence {
  const inMemory = memoryPersistence();
  const incomingGetPacket = inMemory.incomingGetPacket.bind(inMemory);
  const incomingStorePacket = inMemory.incomingStorePacket.bind(inMemory);
  const addSubscriptions = inMemory.addSubscriptions.bind(inMemory);
  return Object.assign(inMemory, {
    // aedes hands over those that were refused as well.
    addSubscriptions: (client: { readonly id: string }, subscriptions: readonly { readonly topic: string }[]) =>
      addSubscriptions(
        client,
        subscriptions.filter(({ topic }) => isDownTopic(client.id, topic)),
      ),
    // aedes asks for every PUBREL's message first, whether it knows it or not.
    incomingGetPacket: async (client: object, packet: PacketId & { cmd?: string }) => {
      if (packet.cmd === 'pubrel' && packet.messageId !== undefined) await onPubrel(client, packet.messageId);
      return incomingGetPacket(client, packet);
    },
    // That it came is all that matters until it is released; what it said is taken.
    incomingStorePacket: (client: object, { messageId }: PacketId) => incomingStorePacket(client, { messageId }),
    // Nothing is queued for anybody, so nobody need be looked up.
    subscriptionsByTopic: async () => [],
    outgoingEnqueue: async () => {},
    outgoingEnqueueCombi: async () => {},
    outgoingUpdate: async () => {},
    outgoingClearMessageId: async (client: object, packet: PacketId) => {
      if (packet.messageId !== undefined) onPuback(client, packet.messageId);
    },
    outgoingStream: () => Readable.from([]),
  });
}
