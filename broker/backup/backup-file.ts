import { createHash } from 'node:crypto';
import type { Snapshot } from '../store/snapshot.ts';

/**
 * The form of a backup: lines of JSON, so that any tool can look into one.
 *
 *   {"format":"downlink-backup","version":1,"madeAt":"…","downlink":"0.1.0","holds":["state","history"]}
 *   ["state","device/pump-1","{…}"]        an entry of a store, as it was when the backup began
 *   {"entries":12345,"sha256":"…"}         how many there were, and the digest of every octet before this line
 *
 * The last line is what makes it whole: one that is cut, damaged or joined of two is told from a whole one.
 */
export const STORE_NAMES = ['state', 'history'] as const;
export type StoreName = (typeof STORE_NAMES)[number];

export type BackupSource = { readonly name: StoreName; readonly snapshot: Snapshot };

export type BackupHeader = { readonly madeAt: string; readonly downlink: string; readonly holds: readonly StoreName[] };
export type BackupEntry = { readonly store: StoreName; readonly key: string; readonly value: string };
export type BackupSummary = BackupHeader & { readonly entries: number; readonly bytes: number };

/** What is wrong with a file, as a half sentence after its name. */
export class BackupError extends Error {}

const FORMAT = 'downlink-backup';
const VERSION = 1;
const CHUNK_CHARS = 64 * 1024;
/** Some times the largest commit there can be. */
const LINE_BYTES_MAX = 256 * 1024 * 1024;
const NEWLINE = 10;

/**
 * The backup in chunks. State's snapshot is the first of `sources` and was taken first, so that whatever had left its journal by then is in that of History.
 * Closing them is the caller's.
 */
export async function* backupOf(
  sources: readonly BackupSource[],
  { madeAt, downlink }: Omit<BackupHeader, 'holds'>,
): AsyncGenerator<Buffer, BackupSummary> {
  const header = { madeAt, downlink, holds: sources.map(({ name }) => name) };
  const digest = createHash('sha256');
  let [entries, bytes] = [0, 0];
  const chunkOf = (text: string): Buffer => {
    const chunk = Buffer.from(text);
    bytes += chunk.length;
    digest.update(chunk);
    return chunk;
  };
  yield chunkOf(`${JSON.stringify({ format: FORMAT, version: VERSION, ...header })}\n`);
  for (const { name, snapshot } of sources) {
    let text = '';
    for (let page = await snapshot.next(); page.length > 0; page = await snapshot.next()) {
      for (const [key, value] of page) {
        text += `${JSON.stringify([name, key, value])}\n`;
        entries += 1;
        if (text.length < CHUNK_CHARS) continue;
        yield chunkOf(text);
        text = '';
      }
    }
    if (text !== '') yield chunkOf(text);
  }
  const end = Buffer.from(`${JSON.stringify({ entries, sha256: digest.digest('hex') })}\n`);
  yield end;
  return { ...header, entries, bytes: bytes + end.length };
}

/**
 * The entries of a backup, one after the other, and its summary once the end has shown that it is whole: until then nothing of it is to be trusted. Throws
 * BackupError.
 */
export async function* readBackup(source: AsyncIterable<Uint8Array>): AsyncGenerator<BackupEntry, BackupSummary> {
  const digest = createHash('sha256');
  let header: BackupHeader | undefined;
  let end: { entries: number; sha256: string } | undefined;
  let [entries, bytes, number] = [0, 0, 0];
  for await (const line of linesOf(source)) {
    number += 1;
    bytes += line.length;
    if (end !== undefined) throw new BackupError(`goes on after its end, in line ${number}`);
    const value = header === undefined && number > 1 ? undefined : jsonOf(line);
    if (header === undefined) {
      header = headerOf(value);
    } else if (isEntry(value)) {
      const [store, key, text] = value;
      entries += 1;
      yield { store, key, value: text };
    } else if (isEnd(value)) {
      end = value;
      continue;
    } else {
      throw new BackupError(`is damaged or cut short in line ${number}`);
    }
    digest.update(line);
  }
  if (header === undefined) throw new BackupError('is empty');
  if (end === undefined) throw new BackupError(`is cut short after line ${number}: its end is missing`);
  if (end.entries !== entries)
    throw new BackupError(`is damaged: it has ${entries} entries, and ${end.entries} by its last line`);
  if (end.sha256 !== digest.digest('hex')) throw new BackupError('is damaged: its digest is another than its last line says');
  return { ...header, entries, bytes };
}

/** Lines with their newlines; what comes after the last newline is a line as well. */
async function* linesOf(source: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  for await (const chunk of source) {
    const octets = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let from = 0;
    for (let at = octets.indexOf(NEWLINE); at !== -1; at = octets.indexOf(NEWLINE, from)) {
      const rest = octets.subarray(from, at + 1);
      yield held.length === 0 ? rest : Buffer.concat([...held, rest]);
      held = [];
      heldBytes = 0;
      from = at + 1;
    }
    if (from === octets.length) continue;
    held.push(octets.subarray(from));
    heldBytes += octets.length - from;
    if (heldBytes > LINE_BYTES_MAX) throw new BackupError(`has a line of more than ${LINE_BYTES_MAX} octets`);
  }
  if (held.length > 0) yield Buffer.concat(held);
}

/** Undefined when it is no JSON, or not all of a line. */
function jsonOf(line: Buffer): unknown {
  if (line.at(-1) !== NEWLINE) return undefined;
  try {
    return JSON.parse(line.toString()) as unknown;
  } catch {
    return undefined;
  }
}

function headerOf(value: unknown): BackupHeader {
  const { format, version, madeAt, downlink, holds } = (value ?? {}) as Record<string, unknown>;
  if (format !== FORMAT) throw new BackupError("is no backup of Downlink's");
  if (version !== VERSION) {
    throw new BackupError(`is of version ${String(version)} of the format, and this Downlink reads ${VERSION}; use a newer one`);
  }
  if (typeof madeAt !== 'string' || typeof downlink !== 'string' || !Array.isArray(holds) || !holds.every(isStoreName)) {
    throw new BackupError('is damaged in line 1');
  }
  return { madeAt, downlink, holds };
}

function isEntry(value: unknown): value is [StoreName, string, string] {
  return (
    Array.isArray(value) &&
    value.length === 3 &&
    isStoreName(value[0]) &&
    typeof value[1] === 'string' &&
    value[1] !== '' &&
    typeof value[2] === 'string'
  );
}

function isEnd(value: unknown): value is { entries: number; sha256: string } {
  const { entries, sha256 } = (value ?? {}) as Record<string, unknown>;
  return Number.isSafeInteger(entries) && typeof sha256 === 'string';
}

function isStoreName(value: unknown): value is StoreName {
  return (STORE_NAMES as readonly unknown[]).includes(value);
}
