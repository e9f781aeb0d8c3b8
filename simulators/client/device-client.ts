import type { JsonValue } from '../../devices/json.ts';
import type { Report } from '../../devices/report.ts';
import type { MetricValue } from '../../devices/telemetry.ts';
import type { ExecutedCommands } from './executed-commands.ts';

/** What a device program sees of Downlink, whichever way its device is reached: push-client.ts, pull-client.ts, sse-client.ts and hybrid-client.ts implement it. */
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

  /** What is waiting to be sent, and what was given up or refused since the client was made. */
  readonly counts: ClientCounts;

  /** Sends what is still waiting, for a few seconds at most, then lets go. Stopping twice is harmless. */
  stop(): Promise<void>;
}

/** `stored`: the server acknowledged it. `refused`: it said no, for good. `dropped`: given up here, at a bound or at stop. */
export type Delivery = 'stored' | 'refused' | 'dropped';

export type ClientCounts = {
  /** Waiting or under way. */
  readonly samplesWaiting: number;
  readonly reportsWaiting: number;
  /** Given up: the buffer was full, or the client stopped. */
  readonly samplesDropped: number;
  /** The server would not take them. */
  readonly samplesRefused: number;
  /** Given up for now; the end of a command stays on record and is reported when there is room, or after the next start. */
  readonly reportsDropped: number;
  readonly reportsRefused: number;
};

/** What every client may be given. */
export type ClientOptions = {
  /** Open one with a file to keep it over restarts; in memory otherwise. */
  readonly executed?: ExecutedCommands;
  readonly events?: ClientEvents;
  /** How many samples are kept while the server cannot be had. */
  readonly buffer?: SampleBufferOptions;
  /**
   * Metric under which the server is told how many samples were dropped since the start, once it can be had again;
   * `client.samples_dropped` unless said otherwise, `false` for no such word.
   */
  readonly lossMetric?: string | false;
};

export type SampleBufferOptions = {
  /** 10,000 unless said otherwise. */
  readonly samplesMax?: number;
  /** Of their JSON; 16 MiB unless said otherwise. */
  readonly bytesMax?: number;
  /** Which samples go when it is full; the oldest unless said otherwise. */
  readonly whenFull?: 'drop-oldest' | 'drop-newest';
};

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

/** What a program may watch. All optional; what one throws is told to `problem`. */
export type ClientEvents = {
  /** A connection or event stream is there. */
  connected?(): void;
  /** It was lost. */
  disconnected?(): void;
  /** A hybrid client goes over to the other way. */
  switched?(to: 'push' | 'pull'): void;
  /** A command came in, repeats included. */
  received?(command: ReceivedCommand): void;
  /** What became of a report. `code` is the server's word on a refused one. */
  reported?(commandId: string, report: Report, delivery: Delivery, code?: string): void;
  /** Something went wrong that the client lives with: a lost connection, a refused message. */
  problem?(error: Error): void;
};
