import { octetsAsBase64 } from './cbor.ts';
import { OPEN_COMMANDS_MAX } from './command.ts';
import { DownlinkError } from './downlink-error.ts';
import { LIMIT_MAX, MAX_BYTES_MAX, MAX_BYTES_MIN } from './packing.ts';
import { parseReport, type Report } from './report.ts';
import { epochNsOf } from './rfc3339.ts';
import { parseTelemetry, type Sample } from './telemetry.ts';

/**
 * What a device says in a one-trip wake: `{"telemetry"?,"reports"?,"confirms"?,"since"?,"maxBytes"?,"limit"?,"sentAt"?}`.
 * Checking is all or nothing: the first fault refuses the whole message and is named with its place.
 */
export type SyncMessage = {
  /** Empty when there is none. */
  readonly samples: readonly Sample[];
  readonly reports: readonly SyncReport[];
  /** Ids of commands that the device has. */
  readonly confirms: readonly string[];
  /** A cursor, not yet looked at. */
  readonly since?: string;
  /** Octets of the answer at most. */
  readonly maxBytes?: number;
  /** Commands in the answer at most. */
  readonly limit?: number;
  /** The device's own clock as it sent this, epoch milliseconds. */
  readonly sentAt?: number;
};

export type SyncReport = { readonly id: string; readonly report: Report };

export const SYNC_BYTES_MAX = 512 * 1024;
export const SYNC_REPORTS_MAX = 200;
export const SYNC_CONFIRMS_MAX = OPEN_COMMANDS_MAX;

const FIELDS = new Set(['telemetry', 'reports', 'confirms', 'since', 'maxBytes', 'limit', 'sentAt']);
const ID_CHARS_MAX = 128;
const CURSOR_CHARS_MAX = 512;
const NS_PER_MS = 1_000_000n;

/**
 * Checks a decoded message. Throws `invalid_telemetry` and `invalid_report` for what these parts hold, `invalid_request` for the rest; `at` is the place:
 * `telemetry[2].values.temperature`, `reports[1].progress`, `maxBytes`.
 */
export function parseSync(message: unknown): SyncMessage {
  if (!isObject(message)) {
    throw new DownlinkError(
      'invalid_request',
      'a sync is an object such as {"telemetry":{"temperature":21.5},"reports":[],"confirms":[]}',
    );
  }
  for (const field of Object.keys(message)) {
    if (!FIELDS.has(field)) throw fault(field.slice(0, 80), `is not a field of a sync; it has ${[...FIELDS].join(', ')}`);
  }
  const { telemetry, reports, confirms, since, maxBytes, limit, sentAt } = message;
  return {
    samples: samplesOf(telemetry),
    reports: listOf(reports, 'reports', SYNC_REPORTS_MAX, reportOf),
    confirms: listOf(confirms, 'confirms', SYNC_CONFIRMS_MAX, idOf),
    ...(since !== undefined && { since: textOf(since, 'since', CURSOR_CHARS_MAX) }),
    ...(maxBytes !== undefined && { maxBytes: integerOf(maxBytes, 'maxBytes', MAX_BYTES_MIN, MAX_BYTES_MAX) }),
    ...(limit !== undefined && { limit: integerOf(limit, 'limit', 1, LIMIT_MAX) }),
    ...(sentAt !== undefined && { sentAt: timeOf(sentAt, 'sentAt') }),
  };
}

/** An empty array is what a device sends that has measured nothing. */
function samplesOf(telemetry: unknown): Sample[] {
  if (telemetry === undefined || (Array.isArray(telemetry) && telemetry.length === 0)) return [];
  return within('telemetry', () => parseTelemetry(telemetry));
}

function reportOf(given: unknown, at: string): SyncReport {
  if (!isObject(given))
    throw new DownlinkError('invalid_report', `${at} is an object such as {"id":"…","state":"succeeded"}`, { at });
  const { id, ...report } = given;
  if (!isId(id)) throw new DownlinkError('invalid_report', `${at}.id is the id of the command, a string`, { at: `${at}.id` });
  return { id, report: within(at, () => parseReport(octetsAsBase64(report))) };
}

function idOf(given: unknown, at: string): string {
  if (!isId(given)) throw fault(at, 'is the id of a command, a string');
  return given;
}

function isId(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= ID_CHARS_MAX;
}

function listOf<T>(given: unknown, at: string, most: number, parse: (item: unknown, at: string) => T): T[] {
  if (given === undefined) return [];
  if (!Array.isArray(given)) throw fault(at, 'is an array');
  if (given.length > most) throw fault(at, `holds ${given.length}; ${most} are the most a sync takes`);
  return given.map((item: unknown, i) => parse(item, `${at}[${i}]`));
}

function textOf(given: unknown, at: string, charsMax: number): string {
  if (typeof given !== 'string' || given.length > charsMax) throw fault(at, `is a string of at most ${charsMax} characters`);
  return given;
}

function integerOf(given: unknown, at: string, least: number, most: number): number {
  if (Number.isSafeInteger(given) && Number(given) >= least && Number(given) <= most) return Number(given);
  throw fault(at, `is a whole number from ${least} to ${most}`);
}

function timeOf(given: unknown, at: string): number {
  const ns = typeof given === 'string' ? epochNsOf(given) : typeof given === 'number' ? epochNsOf(Math.floor(given)) : undefined;
  if (ns === undefined) throw fault(at, "is the device's time: epoch milliseconds, or RFC 3339 such as 2026-01-01T00:00:00Z");
  return Number(ns / NS_PER_MS);
}

/** Names a part's fault by its place in the whole. */
function within<T>(part: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof DownlinkError)) throw error;
    const { code, at, message } = error;
    if (at === undefined) throw new DownlinkError(code, `${part}: ${message}`, { at: part });
    const dot = at.startsWith('[') ? '' : '.';
    throw new DownlinkError(code, `${part}${dot}${message}`, { at: `${part}${dot}${at}` });
  }
}

function fault(at: string, rule: string): DownlinkError {
  return new DownlinkError('invalid_request', `${at} ${rule}`, { at });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}
