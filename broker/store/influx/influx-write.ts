import { promisify } from 'node:util';
import { constants, gzip } from 'node:zlib';
import type { RefusedLine } from '../history.ts';
import { parseRow } from '../line-parser.ts';
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
  const refuse = (part: readonly string[], { reason }: WriteRefusal): void => {
    for (const line of part) refused.push({ line, reason });
  };
  const parts: { rows: readonly string[]; refusal?: WriteRefusal }[] = [{ rows, refusal: firstRefusal }];
  for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
    const refusal = part.refusal ?? (await post(part.rows));
    if (refusal === undefined) continue;
    if (part.rows.length <= 1 || isOfAll(refusal, part.rows)) {
      refuse(part.rows, refusal);
      continue;
    }
    const isSuspect = suspicion(refusal);
    const suspects = isSuspect === undefined ? [] : part.rows.filter(isSuspect);
    if (isSuspect !== undefined && suspects.length > 0 && suspects.length < part.rows.length) {
      const verdict = await post(suspects);
      if (verdict !== undefined && isOfAll(verdict, suspects)) {
        refuse(suspects, verdict);
        parts.unshift({ rows: part.rows.filter((row) => !isSuspect(row)) });
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

/** The rows that a type conflict names: with that field of that type. A device that errs in every row is found in two requests. */
function suspicion({ reason }: WriteRefusal): ((row: string) => boolean) | undefined {
  const [, field, measurement, type] = TYPE_CONFLICT.exec(reason) ?? [];
  if (field === undefined) return undefined;
  return (text) => {
    try {
      const row = parseRow(text);
      const at = row.fields.findIndex((name, i) => i % 2 === 0 && name === field);
      return row.measurement === measurement && at !== -1 && typeOf(row.fields[at + 1] ?? '') === type;
    } catch {
      return false;
    }
  };
}

/** InfluxDB's name for the type of a field's text. */
function typeOf(value: string): string {
  if (value.startsWith('"')) return 'string';
  if (value === 'true' || value === 'false') return 'boolean';
  return value.endsWith('i') ? 'integer' : 'float';
}
