import type { JsonValue } from '../../devices/json.ts';
import type { Report } from '../../devices/report.ts';
import type { MetricValue } from '../../devices/telemetry.ts';

/** What a device program sees of Downlink, whichever way its device is reached: push-client.ts and pull-client.ts implement it. */
export interface DeviceClient {
  /** Carries out commands called `name`. One handler a name; a command without one is reported as rejected. */
  onCommand(name: string, handler: CommandHandler): void;

  /** Resolves when it is connected, or after its first wake; rejects when the server refuses the device's token. Starts once. */
  start(): Promise<void>;

  /**
   * Sends one sample, stamped with `ts` (epoch ms) or the time of this call. Resolves with what became of it, and never
   * rejects, so that a program may ignore it: a reading is safe once `stored`.
   */
  telemetry(values: Readonly<Record<string, MetricValue>>, ts?: number): Promise<Delivery>;

  /** Sends what is still waiting, for a few seconds at most, then lets go. Stopping twice is harmless. */
  stop(): Promise<void>;
}

/** `stored`: the server acknowledged it. `refused`: it said no, for good. `dropped`: given up here, at a bound or at stop. */
export type Delivery = 'stored' | 'refused' | 'dropped';

/** A command as it comes over the wire. The same one may come more than once; a handler sees it once. */
export type ReceivedCommand = {
  readonly id: string;
  readonly name: string;
  readonly params?: JsonValue;
  /** The octets of a binary command, in place of `params`. */
  readonly payload?: Buffer;
  readonly contentType?: string;
  /** 1 for the first hand-over. */
  readonly attempt: number;
  /** RFC 3339. */
  readonly issuedAt?: string;
  readonly expiresAt?: string;
};

export type CommandContext = {
  /** Tells the server how far it is, 0..100; this also starts the time for the report anew. */
  readonly progress: (percent: number, message?: string) => void;
  /** Aborted when the client stops. */
  readonly signal: AbortSignal;
};

/**
 * Carries a command out, for as long as it takes. What it returns (as JSON) is the result of a succeeded command; what it
 * throws is the message of a failed one; a RejectedCommand makes it rejected.
 */
export type CommandHandler = (command: ReceivedCommand, context: CommandContext) => unknown;

/** Thrown by a handler that will not do it: wrong parameters, not possible now. */
export class RejectedCommand extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'RejectedCommand';
  }
}

/** What a program may watch. All optional; none may throw. */
export type ClientEvents = {
  connected?(): void;
  disconnected?(): void;
  /** A command came in, repeats included. */
  received?(command: ReceivedCommand): void;
  /** What became of a report. `code` is the server's word on a refused one. */
  reported?(commandId: string, report: Report, delivery: Delivery, code?: string): void;
  /** Something went wrong that the client lives with: a lost connection, a refused message. */
  problem?(error: Error): void;
};
