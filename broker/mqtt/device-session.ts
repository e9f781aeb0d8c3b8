import { setMaxListeners } from 'node:events';
import type { Client } from 'aedes';
import { SECOND_MS } from '../../devices/clock.ts';
import { commandMessage } from '../../devices/command-message.ts';
import type { Command } from '../../devices/command.ts';
import { commandsTopic, notifyTopic } from '../../devices/topics.ts';
import type { NotifySession } from '../commands/notifier.ts';
import type { PushSession } from '../commands/push-line.ts';
import { OrderedReplies } from './ordered-replies.ts';
import { publishOctets } from './outgoing-packets.ts';

/**
 * One MQTT connection of a device: which message id stands for which command, and acknowledgements in the order of arrival. What is pushed to it is written
 * at once: by aedes it would go out in the next turn of the event loop, after all that this one acknowledges.
 */

/** A part of aedes that it does not document: a connection that takes nothing for a while ends. */
type Internals = { waitForDrain(done: () => void): void };

/** Messages of one connection whose durability is awaited at a time, and which are acknowledged in one turn; the rest of what was read waits for its turn. */
const ACKS_OUTSTANDING_MAX = 256;
const MESSAGE_ID_MAX = 65_535;
/** Hand-overs whose PUBACK may still come; older ones have lapsed long since. */
const PUSHES_REMEMBERED_MAX = 1_024;
/** A PUBACK that takes longer than this is hardly on its way any more. */
const PUBACK_MS_MAX = 5_000;

/** Refused filters that are told of in a second. */
const FILTERS_TOLD_OF_MAX = 10;

/** Of what the device does not read: beyond so many octets messages for it are dropped. */
export type Backlog = { readonly bytesMax: number; readonly onDropped: () => void };

export class DeviceSession implements PushSession, NotifySession {
  readonly deviceId: string;
  readonly transport = 'mqtt';
  readonly client: Client;
  readonly replies = new OrderedReplies<Error | null>(ACKS_OUTSTANDING_MAX);
  /** With which QoS the device has subscribed to its commands and to notifications; undefined: not at all. */
  commandsQos: number | undefined;
  notifyQos: number | undefined;
  /** aedes has registered it: it counts in the device's presence. */
  isRegistered = false;
  /** The credential is gone or the server stops: nothing more is taken, wills included. */
  isCut = false;
  /** Messages that wait, unacknowledged, for room in the journal. */
  held = 0;
  readonly #backlog: Backlog;
  readonly #gone = new AbortController();
  readonly #commandByMessageId = new Map<number, string>();
  #lastMessageId = 0;
  #filtersToldOf = 0;

  constructor(deviceId: string, client: Client, backlog: Backlog) {
    this.deviceId = deviceId;
    this.client = client;
    this.#backlog = backlog;
    setMaxListeners(0, this.#gone.signal);
  }

  /** Aborted when the connection is no more, so that what is held for it can be let go. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  end(): void {
    this.#gone.abort();
  }

  /** With QoS 0 there is no PUBACK: the device's report is all that confirms. */
  get confirmsWithinMs(): number | undefined {
    return this.commandsQos === 0 ? undefined : PUBACK_MS_MAX;
  }

  get hasBacklog(): boolean {
    return 'writableLength' in this.client.conn && this.client.conn.writableLength > this.#backlog.bytesMax;
  }

  push(command: Command): void {
    if (this.hasBacklog) return this.#backlog.onDropped();
    const messageId = this.nextMessageId();
    this.#commandByMessageId.set(messageId, command.id);
    for (const oldest of this.#commandByMessageId.keys()) {
      if (this.#commandByMessageId.size <= PUSHES_REMEMBERED_MAX) break;
      this.#commandByMessageId.delete(oldest);
    }
    this.#publish(commandsTopic(this.deviceId), commandMessage(command), this.commandsQos, messageId);
  }

  notify(pending: number, isUrgent: boolean): boolean {
    if (this.hasBacklog) return false;
    this.#publish(notifyTopic(this.deviceId), { pending, urgent: isUrgent }, this.notifyQos, this.nextMessageId());
    return true;
  }

  /** The command that the PUBACK with this message id confirms. */
  takeConfirmed(messageId: number): string | undefined {
    const commandId = this.#commandByMessageId.get(messageId);
    this.#commandByMessageId.delete(messageId);
    return commandId;
  }

  /** For an outgoing packet: one that stands for no command. */
  nextMessageId(): number {
    do {
      this.#lastMessageId = (this.#lastMessageId % MESSAGE_ID_MAX) + 1;
    } while (this.#commandByMessageId.has(this.#lastMessageId));
    return this.#lastMessageId;
  }

  /** Whether one more refused filter is to be told of on `errors`: a SUBSCRIBE may have thousands, and SUBACK says it of each. */
  mayTellOfFilter(): boolean {
    if (this.#filtersToldOf === 0) setTimeout(() => (this.#filtersToldOf = 0), SECOND_MS).unref();
    this.#filtersToldOf += 1;
    return this.#filtersToldOf <= FILTERS_TOLD_OF_MAX;
  }

  /** With QoS 1, or 0 where it has subscribed with that [MQTT-3.8.4-6]. */
  #publish(topic: string, message: object, subscribedQos: number | undefined, messageId: number): void {
    if (this.client.closed) return;
    const qos = subscribedQos === 0 ? 0 : 1;
    const octets = publishOctets({ topic, payload: JSON.stringify(message), qos, retain: false, dup: false, messageId });
    if (!this.client.conn.write(octets)) (this.client as Client & Internals).waitForDrain(() => {});
  }

  /** Closes the connection; its will is not published. */
  cut(): void {
    this.isCut = true;
    this.client.close();
  }
}
