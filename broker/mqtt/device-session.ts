import { setMaxListeners } from 'node:events';
import type { Client } from 'aedes';
import { commandMessage } from '../../devices/command-message.ts';
import type { Command } from '../../devices/command.ts';
import { commandsTopic } from '../../devices/topics.ts';
import type { PushSession } from '../commands/dispatcher.ts';
import { OrderedReplies } from './ordered-replies.ts';

/** One MQTT connection of a device: which message id stands for which command, and acknowledgements in the order of arrival. */

/** Messages of one connection whose durability is awaited at a time; the rest of what was read waits for its turn. */
const ACKS_OUTSTANDING_MAX = 1_000;
const MESSAGE_ID_MAX = 65_535;
/** Hand-overs whose PUBACK may still come; older ones have lapsed long since. */
const PUSHES_REMEMBERED_MAX = 1_024;

export class DeviceSession implements PushSession {
  readonly deviceId: string;
  readonly client: Client;
  readonly replies = new OrderedReplies<Error | null>(ACKS_OUTSTANDING_MAX);
  /** Commands go out once this is set: the device has subscribed to them. */
  wantsCommands = false;
  /** aedes has registered it: it counts in the device's presence. */
  isRegistered = false;
  /** The credential is gone or the server stops: nothing more is taken, wills included. */
  isCut = false;
  /** Messages that wait, unacknowledged, for room in the journal. */
  held = 0;
  readonly #gone = new AbortController();
  readonly #commandByMessageId = new Map<number, string>();
  readonly #messageIdOfPush = new WeakMap<object, number>();
  #lastMessageId = 0;

  constructor(deviceId: string, client: Client) {
    this.deviceId = deviceId;
    this.client = client;
    setMaxListeners(0, this.#gone.signal);
  }

  /** Aborted when the connection is no more, so that what is held for it can be let go. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  end(): void {
    this.#gone.abort();
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

  /** Closes the connection; its will is not published. */
  cut(): void {
    this.isCut = true;
    this.client.close();
  }
}
