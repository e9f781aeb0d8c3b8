import { setMaxListeners } from 'node:events';
import type { Client } from 'aedes';
import { SECOND_MS } from '../../devices/clock.ts';
import { commandMessage } from '../../devices/command-message.ts';
import type { Command } from '../../devices/command.ts';
import { commandsTopic, notifyTopic } from '../../devices/topics.ts';
import type { NotifySession } from '../commands/notifier.ts';
import type { PushSession } from '../commands/push-line.ts';
import { OrderedReplies } from './ordered-replies.ts';

/** One MQTT connection of a device: which message id stands for which command, and acknowledgements in the order of arrival. */

/** Messages of one connection whose durability is awaited at a time, and which are acknowledged in one turn; the rest of what was read waits for its turn. */
const ACKS_OUTSTANDING_MAX = 256;
const MESSAGE_ID_MAX = 65_535;
/** Hand-overs whose PUBACK may still come; older ones have lapsed long since. */
const PUSHES_REMEMBERED_MAX = 1_024;
/** A PUBACK that takes longer than this is hardly on its way any more. */
const PUBACK_MS_MAX = 5_000;

/** Refused filters that are told of in a second. */
const FILTERS_TOLD_OF_MAX = 10;

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
  /** A subscriber that does not read: messages for it beyond this many octets are dropped. */
  readonly #backlogBytesMax: number;
  readonly #gone = new AbortController();
  readonly #commandByMessageId = new Map<number, string>();
  readonly #messageIdOfPush = new WeakMap<object, number>();
  #lastMessageId = 0;
  #filtersToldOf = 0;

  constructor(deviceId: string, client: Client, backlogBytesMax: number) {
    this.deviceId = deviceId;
    this.client = client;
    this.#backlogBytesMax = backlogBytesMax;
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
    return 'writableLength' in this.client.conn && this.client.conn.writableLength > this.#backlogBytesMax;
  }

  push(command: Command): void {
    const payload = Buffer.from(JSON.stringify(commandMessage(command)));
    const messageId = this.nextMessageId();
    this.#commandByMessageId.set(messageId, command.id);
    for (const oldest of this.#commandByMessageId.keys()) {
      if (this.#commandByMessageId.size <= PUSHES_REMEMBERED_MAX) break;
      this.#commandByMessageId.delete(oldest);
    }
    // aedes makes packets of its own on the way out; the payload is what stays the same object.
    this.#messageIdOfPush.set(payload, messageId);
    this.client.publish(
      { cmd: 'publish', topic: commandsTopic(this.deviceId), payload, qos: 1, dup: false, retain: false },
      () => {},
    );
  }

  notify(pending: number, isUrgent: boolean): boolean {
    if (this.hasBacklog) return false;
    const payload = Buffer.from(JSON.stringify({ pending, urgent: isUrgent }));
    const qos = this.notifyQos === 0 ? 0 : 1;
    this.client.publish({ cmd: 'publish', topic: notifyTopic(this.deviceId), payload, qos, dup: false, retain: false }, () => {});
    return true;
  }

  /** The message id for an outgoing packet: the push's own, or a free one, so that the two never meet. */
  messageIdFor(payload: object): number {
    return this.#messageIdOfPush.get(payload) ?? this.nextMessageId();
  }

  /** The command that the PUBACK with this message id confirms. */
  takeConfirmed(messageId: number): string | undefined {
    const commandId = this.#commandByMessageId.get(messageId);
    this.#commandByMessageId.delete(messageId);
    return commandId;
  }

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

  /** Closes the connection; its will is not published. */
  cut(): void {
    this.isCut = true;
    this.client.close();
  }
}
