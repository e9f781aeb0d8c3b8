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
  #window = 1;

  /** Resolves with what became of it; never rejects. */
  add(kind: Kind, topic: string, payload: string): Promise<Delivery> {
    if (kind === 'progress') this.#dropWhere('progress', (waiting) => waiting.topic === topic);
    while (this.size >= MESSAGES_MAX && this.#dropOldest()) continue;
    return new Promise((settle) => {
      this.#waiting[kind].push({ kind, topic, payload, failures: 0, settle });
      this.#pump();
    });
  }

  /** Messages not yet acknowledged. */
  get size(): number {
    return this.#inFlight.size + KINDS.reduce((sum, kind) => sum + this.#waiting[kind].length, 0);
  }

  /**
   * A connection is there: sends over it until `disconnected`. One message first, then more at a time with each acknowledgement, so that
   * even a connection that never lasts gets something through.
   */
  connected(publish: Publish): void {
    this.#publish = publish;
    this.#window = 1;
    this.#pump();
  }

  /** What was under way goes back to the front, in order. */
  disconnected(): void {
    this.#publish = undefined;
    const [first, ...others] = this.#inFlight;
    this.#inFlight.clear();
    for (const message of others.toReversed()) this.#waiting[message.kind].unshift(message);
    if (first === undefined) return;
    // It may be this one that the server answers with a closed socket.
    first.failures += 1;
    if (first.failures >= FAILURES_MAX) first.settle('dropped');
    else this.#waiting[first.kind].unshift(first);
  }

  /** Gives up all that is left. */
  close(): void {
    this.disconnected();
    for (const kind of KINDS) this.#dropWhere(kind, () => true);
  }

  #pump(): void {
    while (this.#publish !== undefined && this.#inFlight.size < this.#window) {
      const kind = KINDS.find((candidate) => this.#waiting[candidate].length > 0);
      const message = kind && this.#waiting[kind].shift();
      if (message === undefined) return;
      this.#send(message, this.#publish);
    }
  }

  #send(message: Message, publish: Publish): void {
    this.#inFlight.add(message);
    publish(message.topic, message.payload, () => {
      // An acknowledgement of an earlier connection is none: its message is on its way again.
      if (this.#publish !== publish || !this.#inFlight.delete(message)) return;
      message.settle('stored');
      this.#window = Math.min(IN_FLIGHT_MAX, this.#window + 1);
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
  /** Connections that ended with this one unacknowledged for the longest time. */
  failures: number;
  readonly settle: (delivery: Delivery) => void;
};

const KINDS: readonly Kind[] = ['end', 'progress', 'telemetry'];
const MESSAGES_MAX = 2_000;
const IN_FLIGHT_MAX = 32;
const FAILURES_MAX = 20;
