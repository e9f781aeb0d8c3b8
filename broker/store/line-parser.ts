import type { MetricValue } from '../../devices/telemetry.ts';
import { closingQuote } from './line-rows.ts';

/** Reads back the line protocol that line-protocol.ts writes: names are allow-listed, so escapes occur in string fields alone. */

export type Row = {
  readonly measurement: string;
  /** Names and values by turns. */
  readonly tags: readonly string[];
  /** Names and values by turns, of as many fields as were wanted; values as they were written, see valueOf. */
  readonly fields: readonly string[];
  /** Where the fields stand in the text that was read. */
  readonly fieldsFrom: number;
  readonly fieldsTo: number;
  /** Nanoseconds since the epoch. */
  readonly timeNs: string;
};

/** Where it is looked for, and no further. */
const BARE_VALUE = /(?:-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|-?\d+i|true|false)(?=[, \n]|$)/y;
const TIME_DIGITS_MAX = 19;
const ALL = (): number => Number.POSITIVE_INFINITY;

const SPACE = 32;
const QUOTE = 34;
const COMMA = 44;
const MINUS = 45;
const EQUALS = 61;
const BACKSLASH = 92;

/**
 * Reads the row that stands in `text` from `from` to `to`: in place, since cutting it out first costs as much again. Of its first
 * `fieldsMax` fields it takes name and value; that all are well formed is seen to. Throws SyntaxError with the reason when it is not one of ours.
 */
export function parseRow(text: string, from = 0, to = text.length, fieldsMax: (measurement: string) => number = ALL): Row {
  const tags: string[] = [];
  const fields: string[] = [];
  let at = nameEnd(text, from, to);
  const measurement = text.slice(from, at);
  while (text.charCodeAt(at) === COMMA) {
    const equals = nameEnd(text, at + 1, to);
    if (text.charCodeAt(equals) !== EQUALS) throw new SyntaxError('a tag has no value');
    const end = nameEnd(text, equals + 1, to);
    tags.push(text.slice(at + 1, equals), text.slice(equals + 1, end));
    at = end;
  }
  if (text.charCodeAt(at) !== SPACE) throw new SyntaxError('tags end with a space');
  const fieldsFrom = at + 1;
  at = readFields(text, fieldsFrom, to, fields, fieldsMax(measurement));
  if (text.charCodeAt(at) !== SPACE || !isInteger(text, at + 1, to))
    throw new SyntaxError('a row ends with its time in nanoseconds');
  return { measurement, tags, fields, fieldsFrom, fieldsTo: at, timeNs: text.slice(at + 1, to) };
}

/** Names and values by turns. Throws SyntaxError when `text` is not a list of fields. */
export function parseFields(text: string): string[] {
  const fields: string[] = [];
  if (readFields(text, 0, text.length, fields, ALL()) !== text.length) throw new SyntaxError('there is more than fields');
  return fields;
}

/** The value that a field's text stands for; integers (`5i`) become numbers. */
export function valueOf(text: string): MetricValue {
  if (text.charCodeAt(0) === QUOTE) return unquote(text);
  if (text === 'true') return true;
  if (text === 'false') return false;
  return Number(text.endsWith('i') ? text.slice(0, -1) : text);
}

/** Reads fields from `at` on, the first `max` of them into `fields`; returns where they end. */
function readFields(text: string, at: number, to: number, fields: string[], max: number): number {
  for (;;) {
    const equals = nameEnd(text, at, to);
    if (text.charCodeAt(equals) !== EQUALS) throw new SyntaxError('a field has no value');
    const start = equals + 1;
    const end = text.charCodeAt(start) === QUOTE ? closingQuote(text, start) + 1 : bareEnd(text, start, to);
    if (end > to) throw new SyntaxError('a string has no end');
    if (text.charCodeAt(start) !== QUOTE && !isBareValue(text, start, end)) throw new SyntaxError('a value cannot be read');
    if (fields.length < 2 * max) fields.push(text.slice(at, equals), text.slice(start, end));
    if (text.charCodeAt(end) !== COMMA) return end;
    at = end + 1;
  }
}

/** Where the name or tag value at `at` ends: at the first `,`, `=` or space. */
function nameEnd(text: string, at: number, to: number): number {
  for (let end = at; end < to; end += 1) {
    const char = text.charCodeAt(end);
    if (char === EQUALS || char === COMMA || char === SPACE) {
      if (end === at) break;
      return end;
    }
    if (char < SPACE || char === QUOTE || char === BACKSLASH) break;
  }
  throw new SyntaxError('a name is missing or malformed');
}

function isBareValue(text: string, start: number, end: number): boolean {
  BARE_VALUE.lastIndex = start;
  return BARE_VALUE.test(text) && BARE_VALUE.lastIndex === end;
}

function bareEnd(text: string, at: number, to: number): number {
  let end = at;
  while (end < to && text.charCodeAt(end) !== COMMA && text.charCodeAt(end) !== SPACE) end += 1;
  return end;
}

function isInteger(text: string, at: number, to: number): boolean {
  const first = text.charCodeAt(at) === MINUS ? at + 1 : at;
  const digits = to - first;
  if (digits < 1 || digits > TIME_DIGITS_MAX) return false;
  for (let i = first; i < to; i += 1) {
    const char = text.charCodeAt(i);
    if (char < 48 || char > 57) return false;
  }
  return true;
}

function unquote(text: string): string {
  const inner = text.slice(1, -1);
  return inner.includes('\\') ? inner.replace(/\\(["\\])/g, '$1') : inner;
}
