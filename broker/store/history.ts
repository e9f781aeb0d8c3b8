import type { Command, CommandState } from '../../devices/command.ts';
import type { MetricValue } from '../../devices/telemetry.ts';
import type { Snapshot } from './snapshot.ts';

/**
 * History: what happened. Rows come in as line protocol (see line-protocol.ts for the schema) and are read back as readings and commands.
 * Times are nanoseconds since the epoch as bigint; ranges are [fromNs, toNs).
 */
export interface History {
  /**
   * Stores rows, each ended by a newline (newlines also occur inside quoted strings). Idempotent: the same measurement, tags and time again merges fields, the last write wins. Resolves when
   * they are durable. Rows that the store refuses by themselves come back with its words; the others are stored. Throws
   * `history_unavailable` when nothing can be said of the batch: send it again.
   */
  append(lines: Buffer): Promise<RefusedLine[]>;

  /** Raw readings of one metric, oldest first. */
  readings(query: ReadingsQuery): Promise<Point[]>;

  /** Aggregates of one metric, oldest first; windows without a reading are left out. */
  windows(query: WindowsQuery): Promise<WindowPoint[]>;

  /** The newest reading of each metric of a device, by metric name. */
  latest(deviceId: string): Promise<Map<string, Point>>;

  /** Commands as they last were, newest first. */
  commands(query: CommandsQuery): Promise<Command[]>;

  command(id: string): Promise<Command | undefined>;

  /** Ids of devices that have readings or commands here, in order, at most `limit`. */
  devices(limit: number): Promise<string[]>;

  /** All of it as it is at this call; undefined where the store is backed up by means of its own. */
  snapshot(): Snapshot | undefined;

  /** Throws `history_unavailable` with the reason when the store cannot be used now. */
  check(): Promise<void>;

  close(): Promise<void>;
}

export type RefusedLine = { readonly line: string; readonly reason: string };

export type ReadingsQuery = {
  readonly deviceId: string;
  readonly metric: string;
  readonly fromNs: bigint;
  readonly toNs: bigint;
  readonly limit: number;
};

export type Point = {
  readonly timeNs: bigint;
  readonly value: MetricValue;
  /** The device's own time (epoch ms), where it was out of bounds and the server's was taken instead. */
  readonly givenTs?: number;
};

export const AGGREGATES = ['mean', 'min', 'max', 'count', 'last'] as const;
export type Aggregate = (typeof AGGREGATES)[number];

export type WindowsQuery = {
  readonly deviceId: string;
  readonly metric: string;
  readonly fromNs: bigint;
  readonly toNs: bigint;
  /** Windows start at multiples of this since the epoch. Absent: one window over the whole range. */
  readonly windowMs?: number;
  readonly aggregates: readonly Aggregate[];
  readonly limit: number;
};

/**
 * `timeNs`: the window's start (of the one window over the whole range: `fromNs`). An aggregate that the values have none of (the mean of
 * strings) is null; booleans and strings have count and last.
 */
export type WindowPoint = { readonly timeNs: bigint } & { readonly [A in Aggregate]?: MetricValue | null };

export type CommandsQuery = {
  /** Absent: of all devices. */
  readonly deviceId?: string;
  readonly states?: readonly CommandState[];
  /** By queuedAt. */
  readonly fromNs: bigint;
  readonly toNs: bigint;
  readonly limit: number;
};
