import { DownlinkError } from './downlink-error.ts';
import { isMetricName, METRICS_MAX, READINGS_MAX, STRING_BYTES_MAX, type MetricValue, type Sample } from './telemetry.ts';

/**
 * SenML packs (RFC 8428) as samples: base fields resolved, units ignored, records of one time put together. A base name that could not be
 * part of a metric's name (a URN) names the device, which its credential does already; it is left out, if the pack has but one.
 */

/** Labels of the CBOR representation (RFC 8428, 6). */
const LABEL_OF_KEY = new Map<unknown, string>([
  [-1, 'bver'],
  [-2, 'bn'],
  [-3, 'bt'],
  [-4, 'bu'],
  [-5, 'bv'],
  [-6, 'bs'],
  [0, 'n'],
  [1, 'u'],
  [2, 'v'],
  [3, 'vs'],
  [4, 'vb'],
  [5, 's'],
  [6, 't'],
  [7, 'ut'],
  [8, 'vd'],
]);

const VERSION_MAX = 10;
/** Times below this are relative to now (RFC 8428, 4.5.3). */
const ABSOLUTE_SECONDS_MIN = 2 ** 28;

type Fields = ReadonlyMap<string, unknown>;
type Base = { name: string; seconds: number; value: number };

/** Checks a decoded pack: an array of objects (JSON) or of maps (CBOR). Throws `invalid_telemetry` with the place of the fault. */
export function parseSenml(pack: unknown, now: number): Sample[] {
  if (!Array.isArray(pack) || pack.length === 0) throw fault('', 'a SenML pack is an array of at least one record');
  const base: Base = { name: '', seconds: 0, value: 0 };
  const rows = new Rows();
  let deviceName: string | undefined;
  for (const [i, record] of pack.entries()) {
    const at = `[${i}]`;
    const fields = fieldsOf(record, at);
    rebase(base, fields, at);
    const value = valueOf(fields, base, at);
    if (value === undefined) continue;
    const own = text(fields, 'n', at) ?? '';
    let metric = base.name + own;
    if (!isMetricName(metric) && isMetricName(own) && (deviceName ?? base.name) === base.name) {
      deviceName = base.name;
      metric = own;
    }
    if (!isMetricName(metric)) {
      throw fault(`${at}.n`, `${metric.slice(0, 80)} is no metric name: a letter or _, then up to 63 of A-Z a-z 0-9 _ . -`);
    }
    rows.add(tsOf(base.seconds + (number(fields, 't', at) ?? 0), now), metric, value, at);
  }
  return rows.samples();
}

/** Readings by time, at most METRICS_MAX to a sample. */
class Rows {
  readonly #rows: { ts: number | undefined; values: Map<string, MetricValue> }[] = [];
  readonly #current = new Map<number | undefined, Map<string, MetricValue>>();
  #count = 0;

  add(ts: number | undefined, metric: string, value: MetricValue, at: string): void {
    this.#count += 1;
    if (this.#count > READINGS_MAX) throw fault(at, `goes past the ${READINGS_MAX} readings a message may hold`);
    let values = this.#current.get(ts);
    if (values === undefined || values.has(metric) || values.size >= METRICS_MAX) {
      values = new Map();
      this.#current.set(ts, values);
      this.#rows.push({ ts, values });
    }
    values.set(metric, value);
  }

  samples(): Sample[] {
    if (this.#rows.length === 0) throw fault('', 'the pack holds no value');
    return this.#rows.map(({ ts, values }) => ({ ...(ts !== undefined && { ts }), values: Object.fromEntries(values) }));
  }
}

function fieldsOf(record: unknown, at: string): Fields {
  let entries: [unknown, unknown][];
  if (record instanceof Map) entries = [...record.entries()].map(([key, value]) => [LABEL_OF_KEY.get(key) ?? key, value]);
  else if (typeof record === 'object' && record !== null && !Array.isArray(record)) entries = Object.entries(record);
  else throw fault(at, 'a SenML record is an object');
  const fields = new Map<string, unknown>();
  for (const [key, value] of entries) {
    // "If a system receives a field it does not understand whose label ends with _, it must not process the record" (4.4).
    if (typeof key === 'string' && key.endsWith('_')) throw fault(`${at}.${key.slice(0, 80)}`, 'must be understood, and is not');
    if (typeof key === 'string') fields.set(key, value);
  }
  return fields;
}

function rebase(base: Base, fields: Fields, at: string): void {
  const version = number(fields, 'bver', at);
  if (version !== undefined && version > VERSION_MAX) throw fault(`${at}.bver`, `is newer than ${VERSION_MAX}`);
  base.name = text(fields, 'bn', at) ?? base.name;
  base.seconds = number(fields, 'bt', at) ?? base.seconds;
  base.value = number(fields, 'bv', at) ?? base.value;
}

/** Undefined for a record of base fields alone. */
function valueOf(fields: Fields, base: Base, at: string): MetricValue | undefined {
  if (fields.has('vd')) throw fault(`${at}.vd`, 'octets are not stored; send numbers, booleans or strings');
  const given = ['v', 'vs', 'vb'].filter((label) => fields.has(label));
  if (given.length > 1) throw fault(at, 'holds more than one value');
  const value = number(fields, 'v', at);
  if (value !== undefined) {
    const sum = base.value + value;
    if (!Number.isFinite(sum)) throw fault(`${at}.v`, 'is not a finite number');
    return sum;
  }
  const string = text(fields, 'vs', at);
  if (string !== undefined && Buffer.byteLength(string) > STRING_BYTES_MAX) {
    throw fault(`${at}.vs`, `is longer than ${STRING_BYTES_MAX} bytes`);
  }
  if (string !== undefined) return string;
  const boolean = fields.get('vb');
  if (typeof boolean === 'boolean') return boolean;
  if (boolean !== undefined) throw fault(`${at}.vb`, 'is a boolean');
  if (fields.has('s') || fields.has('bs'))
    throw fault(`${at}.${fields.has('s') ? 's' : 'bs'}`, 'sums are not stored; send values');
  if (fields.has('n') || fields.has('t')) throw fault(at, 'holds no value');
  return undefined;
}

/** Epoch milliseconds; undefined for now, which the server then tells apart from other readings of now. */
function tsOf(seconds: number, now: number): number | undefined {
  if (seconds === 0) return undefined;
  return Math.round((seconds >= ABSOLUTE_SECONDS_MIN ? 0 : now) + seconds * 1_000);
}

function number(fields: Fields, label: string, at: string): number | undefined {
  const value = fields.get(label);
  if (value === undefined || (typeof value === 'number' && Number.isFinite(value))) return value;
  throw fault(`${at}.${label}`, 'is a finite number');
}

function text(fields: Fields, label: string, at: string): string | undefined {
  const value = fields.get(label);
  if (value === undefined || typeof value === 'string') return value;
  throw fault(`${at}.${label}`, 'is a string');
}

function fault(at: string, rule: string): DownlinkError {
  return new DownlinkError('invalid_telemetry', at === '' ? rule : `${at}: ${rule}`, at === '' ? {} : { at });
}
