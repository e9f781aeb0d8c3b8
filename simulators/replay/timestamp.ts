/**
 * Reads the time of a recorded row: ISO 8601 or `YYYY-MM-DD HH:MM[:SS[.fff]]`, in UTC where it has no zone; or the epoch in
 * seconds or milliseconds. Answers epoch milliseconds (what is finer is cut off), or why it is no time.
 */
export function parseTimestamp(text: string): number | { readonly fault: string } {
  if (text === '') return { fault: 'timestamp is empty' };
  return NUMBER.test(text) ? epoch(text) : calendar(text);
}

const NUMBER = /^[+-]?\d+(\.\d*)?$/;
const CALENDAR =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)?$/i;

/** Up to here a number is seconds (until the year 5138), above it milliseconds (from 1973 on). */
const SECONDS_MAX = 1e11;
/** Milliseconds up to the same year; what is larger counts in microseconds or less. */
const MILLISECONDS_MAX = 1e14;

function epoch(text: string): number | { fault: string } {
  const value = Number(text);
  if (Math.abs(value) < SECONDS_MAX) return Math.floor(Math.round(value * 1e6) / 1e3);
  if (Math.abs(value) < MILLISECONDS_MAX) return Math.floor(value);
  return { fault: `timestamp ${quoted(text)} is finer than milliseconds; give epoch seconds or milliseconds` };
}

function calendar(text: string): number | { fault: string } {
  const parts = CALENDAR.exec(text);
  if (parts === null) {
    return { fault: `timestamp ${quoted(text)} is no time such as 2026-01-31T12:00:00Z, 2026-01-31 12:00:00 or 1769860800` };
  }
  const [, year, month, day, hour, minute, second, fraction, zone] = parts;
  const [y, m, d, h, min, s] = [year, month, day, hour, minute, second].map((part) => Number(part ?? 0)) as Six;
  const date = new Date(0);
  date.setUTCFullYear(y, m - 1, d);
  const exists = date.getUTCMonth() === m - 1 && date.getUTCDate() === d && h <= 23 && min <= 59 && s <= 59;
  if (!exists) return { fault: `timestamp ${quoted(text)} does not exist in the calendar or on the clock` };
  const offset = offsetMinutes(zone);
  if (offset === undefined) return { fault: `timestamp ${quoted(text)} has a zone that does not exist` };
  const ms = Number((fraction ?? '').slice(0, 3).padEnd(3, '0'));
  return date.getTime() + ((h * 60 + min - offset) * 60 + s) * 1_000 + ms;
}

type Six = [number, number, number, number, number, number];

function offsetMinutes(zone: string | undefined): number | undefined {
  if (zone === undefined || /^(Z|UTC)$/i.test(zone)) return 0;
  const hours = Number(zone.slice(1, 3));
  const minutes = Number(zone.slice(3).replace(':', '') || 0);
  if (hours > 14 || minutes > 59) return undefined;
  return (zone.startsWith('-') ? -1 : 1) * (hours * 60 + minutes);
}

export function quoted(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}
