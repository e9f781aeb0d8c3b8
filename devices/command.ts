import type { JsonValue } from './json.ts';
import type { MetricValue } from './telemetry.ts';

/** What a command is. Its life is in command-machine.ts. Times are epoch milliseconds. */

export const OPEN_STATES = ['queued', 'sent', 'delivered', 'running'] as const;
export const END_STATES = [
  'succeeded',
  'failed',
  'rejected',
  'expired',
  'timed_out',
  'cancelled',
  'superseded',
  'undeliverable',
] as const;
export const COMMAND_STATES = [...OPEN_STATES, ...END_STATES] as const;

export type OpenState = (typeof OPEN_STATES)[number];
export type EndState = (typeof END_STATES)[number];
export type CommandState = (typeof COMMAND_STATES)[number];

export const PRIORITIES = ['low', 'normal', 'high', 'urgent'] as const;
export type Priority = (typeof PRIORITIES)[number];

/** The way a command was handed over. */
export const TRANSPORTS = ['mqtt', 'http', 'sse'] as const;
export type Transport = (typeof TRANSPORTS)[number];

/** What ends the command well: the device's word, or that it has it. */
export type Confirm = 'result' | 'delivery';

export const DEFERRAL_REASONS = [
  'over_limit',
  'over_max_bytes',
  'larger_than_max_bytes',
  'over_push_bytes',
  'condition_unknown',
] as const;
export type DeferralReason = (typeof DEFERRAL_REASONS)[number];

/**
 * Why a queued command was not handed over although its device came: there was no room for it, so many `bytes` of `bytesMax`; or its condition
 * could not be looked at, since History cannot be asked for the reading.
 */
export type Deferral = {
  readonly reason: DeferralReason;
  /** Epoch milliseconds. */
  readonly at: number;
  readonly bytes?: number;
  readonly bytesMax?: number;
};

export const CONDITION_OPS = ['<', '<=', '=', '!=', '>=', '>'] as const;
export type ConditionOp = (typeof CONDITION_OPS)[number];

/** What must hold of the device's latest reading of `metric` when the command is handed over; see condition.ts. */
export type Condition = {
  readonly metric: string;
  readonly op: ConditionOp;
  readonly value: MetricValue;
  /** An older reading than this says nothing. */
  readonly maxAgeSeconds?: number;
};

export const PARAMS_BYTES_MAX = 32 * 1024;
export const PAYLOAD_BYTES_MAX = 32 * 1024;
export const RESULT_BYTES_MAX = 16 * 1024;
export const MESSAGE_CHARS_MAX = 1_024;
export const OPEN_COMMANDS_MAX = 1_000;
export const EXPIRES_SECONDS_DEFAULT = 86_400;
export const REPORT_TIMEOUT_SECONDS_DEFAULT = 300;
export const ATTEMPTS_MAX_DEFAULT = 10;
export const LEASE_SECONDS_DEFAULT = 30;

/** One instruction for one device, as issued and as far as it has come. Frozen: each step makes a new one. */
export type Command = {
  /** UUIDv7; its order is the issue order. */
  readonly id: string;
  readonly deviceId: string;
  readonly name: string;
  readonly params?: JsonValue;
  /** Octets as base64, instead of `params`. */
  readonly payload?: string;
  readonly contentType?: string;
  readonly priority: Priority;
  /** A newer command of the device with the same key takes this one's place. */
  readonly key?: string;
  readonly confirm: Confirm;
  readonly notBefore?: number;
  /** Deadline for delivery; absent when only wakes count. */
  readonly expiresAt?: number;
  /** How many wakes it may be offered on. */
  readonly expiresWakes?: number;
  readonly condition?: Condition;
  readonly reportTimeoutSeconds: number;
  readonly maxAttempts: number;
  readonly queuedAt: number;
  /** `queuedAt` in nanoseconds, made unique per device: the time of its row in History. */
  readonly historyNs: string;

  readonly state: CommandState;
  readonly attempts: number;
  /** Wakes on which it was on offer. */
  readonly wakes: number;
  readonly transport?: Transport;
  /** Number of its last hand-over, which only grows: what a cursor says it has by. Kept after a lapse, since the device may have it. */
  readonly handover?: number;
  /** Of a command that was not handed over since: why not, the last time that the device came. */
  readonly deferral?: Deferral;
  readonly sentAt?: number;
  /** While sent: when the hand-over lapses. */
  readonly leaseUntil?: number;
  readonly deliveredAt?: number;
  readonly startedAt?: number;
  /** While delivered or running: when the report is overdue. */
  readonly reportBy?: number;
  readonly finishedAt?: number;
  /** 0..100, of a running command. */
  readonly progress?: number;
  readonly message?: string;
  readonly result?: JsonValue;
  /** Why it ended without the device's word. */
  readonly error?: string;
  /** The device's word came after the command had ended otherwise. */
  readonly late?: true;
  readonly supersededBy?: string;
  /** Ids of the commands whose place it took. */
  readonly supersedes?: readonly string[];
};

const END_STATE_SET: ReadonlySet<CommandState> = new Set(END_STATES);

export function isEnded(command: Command): boolean {
  return END_STATE_SET.has(command.state);
}

/** Order of delivery to one device: priority first, then issue order. */
export function compareForDelivery(a: Command, b: Command): number {
  if (a.priority !== b.priority) return PRIORITIES.indexOf(b.priority) - PRIORITIES.indexOf(a.priority);
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}
