/** Nanosecond times as text that sorts as the times do: 19 digits; before the epoch `-` and the distance from the earliest time. */

const INT64_MAX = 2n ** 63n - 1n;
const DIGITS = 19;
const NEGATIVE_BASE = 10n ** BigInt(DIGITS);

/** `timeNs` is clamped to what a 64-bit integer holds. */
export function sortableTime(timeNs: bigint): string {
  if (timeNs < 0n) return `-${String(NEGATIVE_BASE + (timeNs < -INT64_MAX ? -INT64_MAX : timeNs))}`;
  return String(timeNs > INT64_MAX ? INT64_MAX : timeNs).padStart(DIGITS, '0');
}

/** The same from decimal text: what is 19 digits already (all times from 2001 to 2286) stays as it is. */
export function sortableTimeOf(text: string): string {
  return text.length === DIGITS && text.charCodeAt(0) !== MINUS ? text : sortableTime(BigInt(text));
}

export function timeOfSortable(text: string): bigint {
  return text.charCodeAt(0) === MINUS ? BigInt(text.slice(1)) - NEGATIVE_BASE : BigInt(text);
}

const MINUS = 45;
