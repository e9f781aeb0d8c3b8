import { SECOND_MS } from './clock.ts';
import type { Condition, ConditionOp } from './command.ts';
import type { MetricValue } from './telemetry.ts';

/** What must hold of a device's readings when a command is handed over. */
export type LatestReading = {
  readonly value: MetricValue;
  /** Epoch milliseconds. */
  readonly at: number;
};

const SHOWN_CHARS_MAX = 64;

/** Values of different kinds are never equal; only numbers have an order. */
const COMPARISONS: Readonly<Record<ConditionOp, (had: MetricValue, wanted: MetricValue) => boolean>> = {
  '=': (had, wanted) => had === wanted,
  '!=': (had, wanted) => had !== wanted,
  '<': (had, wanted) => areNumbers(had, wanted) && had < wanted,
  '<=': (had, wanted) => areNumbers(had, wanted) && had <= wanted,
  '>=': (had, wanted) => areNumbers(had, wanted) && had >= wanted,
  '>': (had, wanted) => areNumbers(had, wanted) && had > wanted,
};

/** True for the ops that need a number to compare with. */
export function isOrderOp(op: ConditionOp): boolean {
  return op !== '=' && op !== '!=';
}

/** `latest` is the device's latest reading of the condition's metric. Without one nothing holds, and no more with one that is too old. */
export function holds(condition: Condition, latest: LatestReading | undefined, now: number): boolean {
  return latest !== undefined && !isTooOld(condition, latest, now) && COMPARISONS[condition.op](latest.value, condition.value);
}

/** What was found where a condition does not hold, for people: `level is 3 (2026-05-01T10:10:00.000Z), not > 5`. */
export function whatWasFound(condition: Condition, latest: LatestReading | undefined, now: number): string {
  const { metric, op, value, maxAgeSeconds } = condition;
  if (latest === undefined) return `there is no reading of ${metric}`;
  const reading = `${metric} is ${shown(latest.value)} (${new Date(latest.at).toISOString()})`;
  return isTooOld(condition, latest, now)
    ? `${reading}, which is older than ${maxAgeSeconds} s`
    : `${reading}, not ${op} ${shown(value)}`;
}

function isTooOld({ maxAgeSeconds }: Condition, { at }: LatestReading, now: number): boolean {
  return maxAgeSeconds !== undefined && now - at > maxAgeSeconds * SECOND_MS;
}

function areNumbers(a: MetricValue, b: MetricValue): boolean {
  return typeof a === 'number' && typeof b === 'number';
}

function shown(value: MetricValue): string {
  return typeof value === 'string' ? JSON.stringify(value.slice(0, SHOWN_CHARS_MAX)) : String(value);
}
