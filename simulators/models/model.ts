import type { JsonValue } from '../../devices/json.ts';
import type { MetricValue } from '../../devices/telemetry.ts';

/**
 * What a simulated thing does, without any I/O: time and randomness are passed in, so that a run can be repeated. Models keep
 * their own state; `now` is in epoch milliseconds and never goes back.
 */
export interface Model {
  /** What it measures now. */
  read(now: number): Record<string, MetricValue>;
  /** Its commands by name. Each says at once what will come of it, and after how long. */
  readonly commands: Readonly<Record<string, (params: Params, now: number) => Outcome>>;
}

export type Params = Readonly<Record<string, JsonValue>>;

/** The device's word on a command, `afterMs` after it was begun. */
export type Outcome =
  | { readonly state: 'succeeded'; readonly afterMs: number; readonly result?: JsonValue }
  | { readonly state: 'failed'; readonly afterMs: number; readonly message: string }
  | { readonly state: 'rejected'; readonly message: string };

export function succeeded(result: JsonValue, afterMs = 0): Outcome {
  return { state: 'succeeded', afterMs, result };
}

export function failed(message: string, afterMs = 0): Outcome {
  return { state: 'failed', afterMs, message };
}

export function rejected(message: string): Outcome {
  return { state: 'rejected', message };
}

export function rounded(value: number, decimals: number): number {
  const factor = 10 ** decimals;
  return Math.round(value * factor) / factor;
}
