import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS } from '../devices/clock.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { epochNsOf } from '../devices/rfc3339.ts';

/** Times as the API takes and shows them: RFC 3339 in UTC, or epoch milliseconds on the way in. */
const NS_PER_MS = 1_000_000n;
const NS_PER_MICRO = 1_000n;
/** The last whole second that InfluxDB's 64 bits of nanoseconds hold, in the year 2262. */
export const TIME_NS_MAX = 9_223_372_036_000_000_000n;

/** Epoch milliseconds of RFC 3339 text (a date alone is its midnight in UTC) or a number. Throws `invalid_request`. */
export function msOf(given: string | number, at: string): number {
  return Number(nsOf(given, at) / NS_PER_MS);
}

/** Epoch nanoseconds, all of the digits that are given. Throws `invalid_request`. */
export function nsOf(given: string | number, at: string): bigint {
  const ns = epochNsOf(given);
  if (ns !== undefined) return ns;
  throw new DownlinkError(
    'invalid_request',
    `${at} is no time from 1970 to 9999: RFC 3339 such as 2026-01-01T00:00:00Z, or epoch milliseconds`,
    {
      at,
    },
  );
}

export function rfc3339(ms: number): string {
  return new Date(ms).toISOString();
}

/** With 3 decimals, or 6 or 9 where the time is not a whole millisecond or microsecond, so that no two times look alike. */
export function rfc3339OfNs(ns: bigint): string {
  const text = new Date(Number(ns / NS_PER_MS)).toISOString();
  const rest = ns % NS_PER_MS;
  if (rest === 0n) return text;
  const digits = rest.toString().padStart(6, '0');
  return `${text.slice(0, -1)}${rest % NS_PER_MICRO === 0n ? digits.slice(0, 3) : digits}Z`;
}

const DURATION = /^(\d{1,10})(s|m|h|d|w)?$/;
const UNIT_MS: Readonly<Record<string, number>> = { s: SECOND_MS, m: MINUTE_MS, h: HOUR_MS, d: DAY_MS, w: 7 * DAY_MS };
const DURATION_MS_MAX = 36_525 * DAY_MS;

/** Milliseconds of `30s`, `15m`, `1h`, `1d`, `2w` or plain seconds; at least one second, at most a century. Throws `invalid_request`. */
export function durationMsOf(given: string, at: string): number {
  const match = DURATION.exec(given);
  const ms = match === null ? 0 : Number(match[1]) * (UNIT_MS[match[2] ?? 's'] ?? 0);
  if (ms < SECOND_MS || ms > DURATION_MS_MAX) {
    throw new DownlinkError(
      'invalid_request',
      `${at} is a length of time such as 30s, 15m, 1h, 1d, 2w or plain seconds, up to 100 years`,
      { at },
    );
  }
  return ms;
}
