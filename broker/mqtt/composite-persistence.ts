import { Readable } from 'node:stream';
import type { Client } from 'aedes';
import type { DevicePersistence } from './device-persistence.ts';
import { Programs, SESSION_MARK } from './programs.ts';
import type { GivenPacket, StoredPacket } from './sessions/stored-packet.ts';
import type { Subscribed } from './sessions/subscriptions.ts';

/** A part of aedes that it does not document: message ids that await their PUBREL. */
type Internals = { readonly _inboundInflight: Set<number> };
type ClientId = { readonly id: string; readonly closed?: boolean };

// Its own client and packet types are those of older versions.
type Persistence = Record<string, (...values: unknown[]) => unknown>;

/**
 * The one persistence that aedes sees: devices' sessions in memory, programs' in the session store. What aedes asks in order to deliver by itself is
 * answered with nothing, since programs' messages go by the router and devices' by the dispatcher.
 */
export function compositePersistence(devices: DevicePersistence, programs: Programs): DevicePersistence {
  const { store } = programs;
  const ofDevices = devices as unknown as Persistence;
  const ofPrograms = {
    subscriptionsByClient: async ({ id }: ClientId) => ((await programs.begin(id, false)) ? [SESSION_MARK] : []),
    cleanSubscriptions: async ({ id }: ClientId) => void (await programs.begin(id, true)),
    addSubscriptions: async (client: ClientId, subscriptions: readonly Subscribed[]) => {
      const granted = programs.of(client)?.granted;
      // aedes hands over those that were refused as well.
      const allowed = subscriptions.filter(({ topic }) => granted?.has(topic));
      await store.addSubscriptions(
        client,
        allowed.map(({ topic, qos }) => ({ topic, qos })),
      );
    },
    removeSubscriptions: (client: ClientId, topics: readonly string[]) => store.removeSubscriptions(client, topics),
    outgoingUpdate: (client: Client, { messageId = 0 }: GivenPacket) => programs.received(client, messageId),
    outgoingClearMessageId: async (client: ClientId, { cmd, messageId = 0 }: GivenPacket) =>
      programs.of(client)?.acknowledged(messageId, cmd === 'pubcomp' ? 'pubcomp' : 'puback'),
    // Of a QoS 2 message that was refused: what was taken is in the store by now. aedes would count it as unreleased for ever.
    incomingStorePacket: async (client: Client & Internals, { messageId = 0 }: GivenPacket) =>
      void client._inboundInflight.delete(messageId),
    incomingGetPacket: (client: ClientId, packet: GivenPacket): Promise<StoredPacket> => store.incomingGetPacket(client, packet),
    incomingDelPacket: (client: Client, packet: GivenPacket) => programs.release(client, packet),
    // A clean session is forgotten when it ends, and not when aedes gets to closing a connection that has had a successor.
    cleanIncoming: async () => {},
    putWill: (client: ClientId, will: GivenPacket) => store.putWill(client, will),
    delWill: async (client: ClientId) => (programs.keepsWills ? undefined : store.delWill(client)),
  } as unknown as Persistence;

  const byClient = Object.entries(ofPrograms).map(([name, ofProgram]) => {
    const ofDevice = ofDevices[name]?.bind(devices);
    const ofEither = async (client: ClientId, ...more: unknown[]): Promise<unknown> =>
      Programs.isProgram(client.id) ? ofProgram(client, ...more) : ofDevice?.(client, ...more);
    return [name, ofEither] as const;
  });
  const setupDevices = ofDevices['setup']?.bind(devices);
  return Object.assign(devices, Object.fromEntries(byClient), {
    setup: async (broker: { id: string }) => {
      await store.setup(broker);
      await setupDevices?.(broker);
    },
    storeRetained: async () => {},
    createRetainedStreamCombi: () => Readable.from([]),
    streamWill: () => Readable.from([]),
  });
}
