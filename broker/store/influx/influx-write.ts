import { promisify } from 'node:util';
import { constants, gzip } from 'node:zlib';
import type { RefusedLine } from '../history.ts';
import { parseRow, type Row } from '../line-parser.ts';
import { rowsOf } from '../line-rows.ts';
import type { InfluxClient, WriteRefusal } from './influx-client.ts';

/** Writes a batch of rows; those that InfluxDB refuses by themselves are found and come back with its words. */

/** Smaller bodies fit in a packet or two as they are. */
const GZIP_BYTES_MIN = 4 * 1024;
const gzipped = promisify(gzip);

/** `isNear`: on this machine, where compressing costs more than sending. */
export async function writeLines(client: InfluxClient, lines: Buffer, isNear: boolean): Promise<RefusedLine[]> {
  const post = async (body: Buffer): Promise<WriteRefusal | undefined> => {
    if (isNear || body.length < GZIP_BYTES_MIN) return client.write(body, {});
    const level = constants.Z_BEST_SPEED;
    return client.write(await gzipped(body, { level }), { 'content-encoding': 'gzip' });
  };
  const refusal = lines.length === 0 ? undefined : await post(lines);
  if (refusal === undefined) return [];
  const postRows = (rows: readonly string[]): Promise<WriteRefusal | undefined> => post(Buffer.from(`${rows.join('\n')}\n`));
  return settle(rowsOf(lines.toString()), refusal, postRows);
}

/**
 * InfluxDB answers for a batch as a whole, with the first reason it has: even of the good rows nothing is certain but that they may be
 * sent again. So the batch is taken apart until each part is taken whole or refused whole, in order, since of the same reading
 * the last one must win.
 */
async function settle(
  rows: readonly string[],
  firstRefusal: WriteRefusal,
  post: (rows: readonly string[]) => Promise<WriteRefusal | undefined>,
): Promise<RefusedLine[]> {
  const refused: RefusedLine[] = [];
  const parts: { rows: readonly string[]; refusal?: WriteRefusal }[] = [{ rows, refusal: firstRefusal }];
  /** Of a row, only the field that is named as the culprit is refused; what stands beside it goes on. */
  const refuse = (part: readonly string[], refusal: WriteRefusal): void => {
    const rest: string[] = [];
    for (const row of part) {
      const split = splitAtField(row, culprit(refusal)?.field);
      refused.push({ line: split?.bad ?? row, reason: refusal.reason });
      if (split !== undefined) rest.push(split.good);
    }
    if (rest.length > 0) parts.unshift({ rows: rest });
  };
  for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
    const refusal = part.refusal ?? (await post(part.rows));
    if (refusal === undefined) continue;
    if (part.rows.length <= 1 || (isOfAll(refusal, part.rows) && part.rows.every(isSuspect(refusal)))) {
      refuse(part.rows, refusal);
      continue;
    }
    const suspects = part.rows.filter(isSuspect(refusal));
    if (suspects.length > 0 && suspects.length < part.rows.length) {
      const verdict = await post(suspects);
      if (verdict !== undefined && isOfAll(verdict, suspects)) {
        parts.unshift({ rows: part.rows.filter((row) => !suspects.includes(row)) });
        refuse(suspects, verdict);
        continue;
      }
    }
    const half = Math.ceil(part.rows.length / 2);
    parts.unshift({ rows: part.rows.slice(0, half) }, { rows: part.rows.slice(half) });
  }
  return refused;
}

/** `partial write: … dropped=3`: how many rows of one shard were refused, and so of all rows when it is as many as there are. */
function isOfAll({ reason }: WriteRefusal, rows: readonly string[]): boolean {
  return rows.length === 1 || Number(/dropped=(\d+)$/.exec(reason)?.[1]) === rows.length;
}

const TYPE_CONFLICT = /input field "(.+)" on measurement "(.+)" is type (\w+), already exists as type/;

type Culprit = { readonly measurement: string; readonly field: string; readonly type: string };

/** What a type conflict names. */
function culprit({ reason }: WriteRefusal): Culprit | undefined {
  const [, field, measurement, type] = TYPE_CONFLICT.exec(reason) ?? [];
  return field === undefined || measurement === undefined || type === undefined ? undefined : { measurement, field, type };
}

/** The rows that a type conflict names: with that field of that type. A device that errs in every row is found in two requests. */
function isSuspect(refusal: WriteRefusal): (row: string) => boolean {
  const named = culprit(refusal);
  if (named === undefined) return () => false;
  return (text) => {
    const row = readRow(text);
    const at = row === undefined ? -1 : placeOfField(row, named.field);
    return row?.measurement === named.measurement && at !== -1 && typeOf(row.fields[at + 1] ?? '') === named.type;
  };
}

/** The row with that field alone, and the row without it; undefined when it has no other field. */
function splitAtField(text: string, field: string | undefined): { bad: string; good: string } | undefined {
  const row = field === undefined ? undefined : readRow(text);
  const at = row === undefined || field === undefined ? -1 : placeOfField(row, field);
  if (row === undefined || at === -1 || row.fields.length <= 2) return undefined;
  return {
    bad: writeRow(row, row.fields.slice(at, at + 2)),
    good: writeRow(row, row.fields.toSpliced(at, 2)),
  };
}

function readRow(text: string): Row | undefined {
  try {
    return parseRow(text);
  } catch {
    return undefined;
  }
}

function placeOfField(row: Row, field: string): number {
  return row.fields.findIndex((name, i) => i % 2 === 0 && name === field);
}

function writeRow({ measurement, tags, timeNs }: Row, fields: readonly string[]): string {
  const pairs = (names: readonly string[]): string[] =>
    names.flatMap((name, i) => (i % 2 === 0 ? [`${name}=${names[i + 1]}`] : []));
  return `${[measurement, ...pairs(tags)].join(',')} ${pairs(fields).join(',')} ${timeNs}`;
}

/** InfluxDB's name for the type of a field's text. */
function typeOf(value: string): string {
  if (value.startsWith('"')) return 'string';
  if (value === 'true' || value === 'false') return 'boolean';
  return value.endsWith('i') ? 'integer' : 'float';
}
