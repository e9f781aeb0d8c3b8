import { Readable } from 'node:stream';
import memory from 'aedes-persistence';

/**
 * What aedes remembers of devices' MQTT sessions: subscriptions and QoS 2 handshakes, in memory. Outgoing messages are not kept, because a
 * device's queue in the ledger is the truth, with or without a session; a PUBACK is passed on instead.
 */
export type Puback = (client: object, messageId: number) => void;

type PacketId = { readonly messageId?: number | undefined };

/** The part of aedes' persistence that Downlink itself calls. */
export type DevicePersistence = {
  /** Rejects when the QoS 2 message is not one that waits for its PUBREL. */
  incomingGetPacket(client: object, packet: PacketId): Promise<object>;
};

// Its types describe the callback interface of older versions.
const memoryPersistence = memory as unknown as () => DevicePersistence;

export function devicePersistence(onPuback: Puback): DevicePersistence {
  return Object.assign(memoryPersistence(), {
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
