import { pino, type DestinationStream, type Logger } from 'pino';
import type { LogLevel } from './config.ts';

/**
 * The log: a JSON object a line on standard output. What clients call themselves gets into it, before they are let in as well. JSON escapes the control characters
 * below U+0020; those that terminals and viewers act upon beyond them are escaped here: C1 (U+009B begins a sequence as ESC [ does), the line and
 * paragraph separators, and what turns the direction of text.
 */
const ACTED_UPON = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** `out` takes whole lines; standard output when absent. */
export function openLog(level: LogLevel, out: DestinationStream = pino.destination(1)): Logger {
  const write = (line: string): void => out.write(line.replace(ACTED_UPON, escaped));
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, { write });
}

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}
