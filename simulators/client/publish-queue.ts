import type { Delivery } from './device-client.ts';

/**
 * What a push device has to say, until the server has acknowledged it: kept in order over lost connections, and sent again
 * on the next one. Ends of commands go before progress, progress before telemetry. When it is full the oldest of what matters least is
 * dropped, never the newest.
 */
export class PublishQueue {
  readonly #waiting: Record<Kind, Message[]> = { end: [], progress: [], telemetry: [] };
  readonly #inFlight = new Set<Message>();
  #publish: Publish | undefined;

  /** Resolves with what became of it; never rejects. */
  add(kind: Kind, topic: string, payload: string): Promise<Delivery> {
    if (kind === 'progress') this.#dropWhere('progress', (waiting) => waiting.topic === topic);
    while (this.size >= MESSAGES_MAX && this.#dropOldest()) continue;
    return new Promise((settle) => {
      this.#waiting[kind].push({ kind, topic, payload, attempts: 0, settle });
      this.#pump();
    });
  }

  /** Messages not yet acknowledged. */
  get size(): number {
    return this.#inFlight.size + KINDS.reduce((sum, kind) => sum + this.#waiting[kind].length, 0);
  }

  /** A connection is there: sends over it until `disconnected`. */
  connected(publish: Publish): void {
    this.#publish = publish;
    this.#pump();
  }

  /** What was under way goes back to the front, in order. */
  disconnected(): void {
    this.#publish = undefined;
    for (const message of [...this.#inFlight].toReversed()) {
      if (message.attempts >= ATTEMPTS_MAX) message.settle('dropped');
      else this.#waiting[message.kind].unshift(message);
    }
    this.#inFlight.clear();
  }

  /** Gives up all that is left. */
  close(): void {
    this.disconnected();
    for (const kind of KINDS) this.#dropWhere(kind, () => true);
  }

  #pump(): void {
    while (this.#publish !== undefined && this.#inFlight.size < IN_FLIGHT_MAX) {
      const kind = KINDS.find((candidate) => this.#waiting[candidate].length > 0);
      const message = kind && this.#waiting[kind].shift();
      if (message === undefined) return;
      this.#send(message, this.#publish);
    }
  }

  #send(message: Message, publish: Publish): void {
    message.attempts += 1;
    this.#inFlight.add(message);
    publish(message.topic, message.payload, () => {
      // An acknowledgement of an earlier connection is none: its message is on its way again.
      if (this.#publish !== publish || !this.#inFlight.delete(message)) return;
      message.settle('stored');
      this.#pump();
    });
  }

  #dropOldest(): boolean {
    for (const kind of KINDS.toReversed()) {
      const oldest = this.#waiting[kind].shift();
      if (oldest === undefined) continue;
      oldest.settle('dropped');
      return true;
    }
    return false;
  }

  #dropWhere(kind: Kind, matches: (message: Message) => boolean): void {
    const kept: Message[] = [];
    for (const message of this.#waiting[kind]) {
      if (matches(message)) message.settle('dropped');
      else kept.push(message);
    }
    this.#waiting[kind] = kept;
  }
}

type Kind = 'end' | 'progress' | 'telemetry';

/** Calls `acknowledged` once the server has it. */
type Publish = (topic: string, payload: string, acknowledged: () => void) => void;

type Message = {
  readonly kind: Kind;
  readonly topic: string;
  readonly payload: string;
  /** On live connections; being offline for long is no attempt. */
  attempts: number;
  readonly settle: (delivery: Delivery) => void;
};

const KINDS: readonly Kind[] = ['end', 'progress', 'telemetry'];
const MESSAGES_MAX = 2_000;
const IN_FLIGHT_MAX = 32;
/** A message that the server answers with a closed socket this often is given up. */
const ATTEMPTS_MAX = 20;
