import type { PublishPacket } from 'aedes';
import type { DownlinkError } from '../../devices/downlink-error.ts';
import type { Metrics } from '../metrics.ts';
import type { Change } from '../store/state.ts';
import type { Along, DeviceMessages, Taken } from './device-messages.ts';
import type { DevicePersistence } from './device-persistence.ts';
import type { DeviceSession } from './device-session.ts';
import type { JournalRoom } from './journal-room.ts';
import type { Programs } from './programs.ts';
import type { RoutedMessage } from './message-router.ts';
import type { ReceivedMessages } from './received-messages.ts';

/** A device's PUBLISH on its way to durability: once, even if it comes again, and when the journal has room; with it, what programs that follow it are to have. */
type IntakeParts = {
  readonly messages: DeviceMessages;
  readonly received: ReceivedMessages;
  readonly room: JournalRoom;
  readonly programs: Programs;
  readonly metrics: Metrics;
};

const NO_CHANGES: readonly Change[] = [];

type Tell = (session: DeviceSession, topic: string, error: DownlinkError) => void;

export class DeviceIntake {
  readonly #parts: IntakeParts;
  readonly #persistence: DevicePersistence;
  readonly #tell: Tell;
  #isStopped = false;

  constructor(parts: IntakeParts, persistence: DevicePersistence, tell: Tell) {
    this.#parts = parts;
    this.#persistence = persistence;
    this.#tell = tell;
  }

  /** Nothing is held for room in the journal any more. */
  stop(): void {
    this.#isStopped = true;
  }

  /** An error is for aedes, which ends the connection with it unacknowledged. */
  async take(session: DeviceSession, packet: PublishPacket): Promise<Error | null> {
    const { topic, payload, qos, messageId, dup } = packet;
    // [MQTT-4.3.3-2]: a QoS 2 message seen before its PUBREL is the same message.
    if (qos === 2 && (await this.#isRepeat(session, packet))) return null;
    const body = typeof payload === 'string' ? Buffer.from(payload) : payload;
    const message: RoutedMessage & { readonly payload: Buffer } = { topic, payload: body, qos, retain: false };
    let followed: Promise<Error | null> | null = null;
    const onCommit = (durable: Promise<unknown>): void => {
      followed = this.#parts.programs.follow(message, durable);
    };
    const taken =
      qos === 2 && messageId !== undefined
        ? await this.#parts.received.once(session.deviceId, { messageId, dup, topic, payload: body }, (changes) =>
            this.#takeWithRoom(session, message, { changes, onCommit }),
          )
        : await this.#takeWithRoom(session, message, { changes: NO_CHANGES, onCommit });
    if (taken === 'repeat') return null;
    if (taken.outcome === 'taken') return followed;
    this.#tell(session, topic, taken.error);
    if (taken.outcome === 'refused') return null;
    if (qos > 0) return taken.error;
    this.#parts.metrics.droppedMessages.inc();
    return null;
  }

  async #takeWithRoom(
    session: DeviceSession,
    { topic, payload, qos }: RoutedMessage & { readonly payload: Buffer },
    along: Along,
  ): Promise<Taken> {
    const { messages } = this.#parts;
    for (;;) {
      const taken = await messages.take(session.deviceId, topic, payload, along);
      if (taken.outcome !== 'not_now' || taken.error.code !== 'journal_full' || qos === 0) return taken;
      if (!(await this.#hasRoom(session, topic, taken.error))) return taken;
    }
  }

  /**
   * Holds a message, and so its acknowledgement, until the journal has room; false when the connection goes first. aedes reads on only when
   * all packets it has read are done, so the socket is paused by this, and what is held of it bounded by one chunk. PINGREQs are
   * not read either: a pause longer than 1.5 x keepalive ends the connection [MQTT-3.1.2-24], and the device, which was not
   * acknowledged, comes back with the same messages. That is as well: one that waits for ever for a PINGRESP goes by itself.
   */
  async #hasRoom(session: DeviceSession, topic: string, error: DownlinkError): Promise<boolean> {
    if (this.#isStopped) return false;
    if (session.held === 0) this.#tell(session, topic, error);
    session.held += 1;
    try {
      return await this.#parts.room.wait(session.gone);
    } finally {
      session.held -= 1;
    }
  }

  async #isRepeat(session: DeviceSession, packet: PublishPacket & { messageId?: number }): Promise<boolean> {
    return this.#persistence.incomingGetPacket(session.client, packet).then(
      () => true,
      () => false,
    );
  }
}
