/** InfluxDB's times: RFC 3339 with up to nine digits of a second, since a JSON number cannot hold nanoseconds. */

/** What InfluxDB takes for the earliest and latest time. */
export const TIME_MIN = -(2n ** 63n) + 2n;
export const TIME_MAX = 2n ** 63n - 2n;

const SECONDS_LENGTH = '2026-01-01T00:00:00'.length;

export function nsOfTime(text: string): bigint {
  const ms = Date.parse(`${text.slice(0, SECONDS_LENGTH)}Z`);
  const fraction = text.slice(SECONDS_LENGTH + 1, -1);
  return BigInt(ms) * 1_000_000n + BigInt(fraction.padEnd(9, '0'));
}

/** A condition for [fromNs, toNs). */
export function timeCondition(fromNs: bigint, toNs: bigint): string {
  const from = fromNs < TIME_MIN ? TIME_MIN : fromNs;
  return toNs >= TIME_MAX ? `time >= ${from} AND time <= ${TIME_MAX}` : `time >= ${from} AND time < ${toNs}`;
}
