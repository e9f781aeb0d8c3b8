import { DownlinkError } from './downlink-error.ts';

/**
 * Telemetry messages: `{"temperature":21.5}`, `{"ts":1700000000000,"values":{…}}`, or an array of either.
 * Decoding is all or nothing: the first fault rejects the whole message and is named with its place.
 */

export const MESSAGE_BYTES_MAX = 256 * 1024;
export const READINGS_MAX = 1_000;
export const METRICS_MAX = 64;
export const STRING_BYTES_MAX = 1_024;

export type MetricValue = number | boolean | string;

/** What a device measured at one time: one row of History. */
export type Sample = {
  /** The device's own time, epoch milliseconds; absent when it gave none. */
  readonly ts?: number;
  readonly values: Readonly<Record<string, MetricValue>>;
};

const METRIC = /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/;

export function isMetricName(text: string): boolean {
  return METRIC.test(text);
}

/** Checks a decoded message. Throws `invalid_telemetry` with the place of the fault. */
export function parseTelemetry(message: unknown): Sample[] {
  if (!Array.isArray(message)) return [parseSample(message, '', READINGS_MAX).sample];
  if (message.length === 0) throw fault('', 'an array of samples has at least one');
  const samples: Sample[] = [];
  let left = READINGS_MAX;
  for (let i = 0; i < message.length; i += 1) {
    const { sample, count } = parseSample(message[i], `[${i}]`, left);
    left -= count;
    samples.push(sample);
  }
  return samples;
}

export function readingsIn(samples: readonly Sample[]): number {
  let count = 0;
  for (const { values } of samples) for (const _ in values) count += 1;
  return count;
}

function parseSample(given: unknown, at: string, readingsLeft: number): { sample: Sample; count: number } {
  if (!isObject(given))
    throw fault(at, 'a sample is an object such as {"temperature":21.5} or {"ts":1700000000000,"values":{"temperature":21.5}}');
  const { ts, values } = given;
  if (!isObject(values)) {
    if (ts !== undefined) throw fault(join(at, 'ts'), 'goes with "values": {"ts":1700000000000,"values":{"temperature":21.5}}');
    return { sample: { values: given as Sample['values'] }, count: checkValues(given, at, readingsLeft) };
  }
  for (const field of Object.keys(given)) {
    if (field !== 'ts' && field !== 'values') throw fault(join(at, field), 'stands beside "values"; metrics go inside it');
  }
  const count = checkValues(values, join(at, 'values'), readingsLeft);
  if (ts === undefined) return { sample: { values: values as Sample['values'] }, count };
  if (typeof ts !== 'number' || !Number.isFinite(ts)) throw fault(join(at, 'ts'), 'is epoch milliseconds, a number');
  return { sample: { ts: Math.floor(ts), values: values as Sample['values'] }, count };
}

function checkValues(values: Record<string, unknown>, at: string, readingsLeft: number): number {
  let count = 0;
  for (const metric in values) {
    if (!METRIC.test(metric)) {
      throw fault(join(at, metric.slice(0, 80)), 'is no metric name: a letter or _, then up to 63 of A-Z a-z 0-9 _ . -');
    }
    const value = values[metric];
    switch (typeof value) {
      case 'number':
        if (!Number.isFinite(value)) throw fault(join(at, metric), 'is not a finite number');
        break;
      case 'string':
        if (value.length * 3 > STRING_BYTES_MAX && Buffer.byteLength(value) > STRING_BYTES_MAX) {
          throw fault(join(at, metric), `is longer than ${STRING_BYTES_MAX} bytes`);
        }
        break;
      case 'boolean':
        break;
      default:
        throw fault(join(at, metric), 'is a number, a boolean or a string');
    }
    count += 1;
  }
  if (count === 0) throw fault(at, 'holds no metric');
  if (count > METRICS_MAX) throw fault(at, `holds ${count} metrics; ${METRICS_MAX} are the most a sample takes`);
  if (count > readingsLeft) throw fault(at, `goes past the ${READINGS_MAX} readings a message may hold`);
  return count;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function join(at: string, field: string): string {
  return at === '' ? field : `${at}.${field}`;
}

function fault(at: string, rule: string): DownlinkError {
  return new DownlinkError('invalid_telemetry', at === '' ? rule : `${at}: ${rule}`, at === '' ? {} : { at });
}
