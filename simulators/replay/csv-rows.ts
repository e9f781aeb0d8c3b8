import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { pipeline } from 'node:stream';
import { CsvError, parse } from 'csv-parse';
import { STRING_BYTES_MAX, type MetricValue } from '../../devices/telemetry.ts';
import type { ValueType } from '../options.ts';
import { UserError } from '../user-error.ts';
import { parseTimestamp, quoted } from './timestamp.ts';

/** One row of a recorded file. */
export type Row = {
  /** Counted from 1 below the header. */
  readonly row: number;
  /** Epoch milliseconds. */
  readonly ts: number;
  readonly value: MetricValue;
};

/** Longest row; what is longer is a quote that was never closed. */
const ROW_BYTES_MAX = 64 * 1024;

/**
 * Reads the rows of a CSV file (RFC 4180; a byte order mark, CRLF and empty lines are no matter) as a stream. The header must name
 * `timestamp` and `value`; other columns are left aside. All values are of one type: `type`, or what the first row has, a number
 * or true/false. Throws UserError that names the row and what is wrong with it.
 */
export async function* readRows(path: string, type?: ValueType): AsyncGenerator<Row> {
  await assertFile(path);
  const parser = parse({
    bom: true,
    trim: true,
    skip_empty_lines: true,
    relax_column_count: true,
    info: true,
    max_record_size: ROW_BYTES_MAX,
  });
  // An error of the file is thrown below, by the iteration.
  pipeline(createReadStream(path), parser, () => {});
  let columns: Columns | undefined;
  let valueType = type;
  let row = 0;
  try {
    for await (const { record, info } of parser as AsyncIterable<Parsed>) {
      if (columns === undefined) {
        columns = columnsIn(record, path);
        continue;
      }
      row += 1;
      const fault = (what: string) => new UserError(`${path}, row ${row} (line ${info.lines}): ${what}.`);
      const timestamp = record[columns.timestamp];
      const text = record[columns.value];
      if (timestamp === undefined || text === undefined) throw fault(`it has ${record.length} of ${columns.count} columns`);
      const ts = parseTimestamp(timestamp);
      if (typeof ts === 'object') throw fault(ts.fault);
      valueType ??= isBoolean(text) ? 'boolean' : 'number';
      const value = valueOf(text, valueType);
      if (typeof value === 'object') throw fault(value.fault);
      yield { row, ts, value };
    }
  } catch (error) {
    throw error instanceof CsvError ? new UserError(`${path}: ${csvFault(error)}.`, { cause: error }) : error;
  }
  if (columns === undefined) throw new UserError(`${path} is empty; its first line must name the columns timestamp and value.`);
  if (row === 0) throw new UserError(`${path} has a header and no rows.`);
}

type Parsed = { readonly record: string[]; readonly info: { readonly lines: number } };
type Columns = { readonly timestamp: number; readonly value: number; readonly count: number };

function columnsIn(header: readonly string[], path: string): Columns {
  const names = header.map((name) => name.toLowerCase());
  const [timestamp, value] = [names.indexOf('timestamp'), names.indexOf('value')];
  if (timestamp === -1 || value === -1) {
    throw new UserError(`${path}: the first line must name the columns timestamp and value; it is ${quoted(header.join(','))}.`);
  }
  return { timestamp, value, count: Math.max(timestamp, value) + 1 };
}

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const BOOLEANS: ReadonlyMap<string, boolean> = new Map([
  ['true', true],
  ['false', false],
]);

function isBoolean(text: string): boolean {
  return BOOLEANS.has(text.toLowerCase());
}

function valueOf(text: string, type: ValueType): MetricValue | { readonly fault: string } {
  if (text === '') return { fault: 'value is empty' };
  switch (type) {
    case 'number': {
      const value = NUMBER.test(text) ? Number(text) : Number.NaN;
      if (Number.isFinite(value)) return value;
      return { fault: `value ${quoted(text)} is not a number (a column of texts takes --type string)` };
    }
    case 'boolean':
      return (
        BOOLEANS.get(text.toLowerCase()) ?? {
          fault: `value ${quoted(text)} is not true or false (a column of texts takes --type string)`,
        }
      );
    case 'string':
      return Buffer.byteLength(text) <= STRING_BYTES_MAX
        ? text
        : { fault: `value ${quoted(text)} is longer than ${STRING_BYTES_MAX} bytes` };
  }
}

async function assertFile(path: string): Promise<void> {
  try {
    // It is read twice: once to check it, once to send it.
    if (!(await stat(path)).isFile()) throw new UserError(`${path} is not a file.`);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${path} cannot be read (${(error as NodeJS.ErrnoException).code}).`, { cause: error });
  }
}

function csvFault(error: CsvError): string {
  if (error.code === 'CSV_QUOTE_NOT_CLOSED' || error.code === 'CSV_MAX_RECORD_SIZE') return 'a quote is opened and never closed';
  return error.message.replace(/\.$/, '');
}
