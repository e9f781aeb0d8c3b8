import type { MetricValue } from './telemetry.ts';

/**
 * Readings of a device as a SenML pack (RFC 8428): one record a reading, the device as the base name, absolute times. The inverse of senml.ts: a pack made
 * here may be sent as telemetry.
 */
export type PackReadings = Iterable<
  readonly [
    metric: string,
    /** `timeNs`: epoch nanoseconds; a record has it to the microsecond. */
    reading: { readonly timeNs: bigint; readonly value: MetricValue },
  ]
>;

/** Labels of a record's fields: text in JSON, numbers in CBOR (RFC 8428, 6). */
const LABELS = {
  json: { bn: 'bn', n: 'n', t: 't', number: 'v', string: 'vs', boolean: 'vb' },
  cbor: { bn: -2, n: 0, t: 6, number: 2, string: 3, boolean: 4 },
} as const;

const NS_PER_MICRO = 1_000n;
const MICROS_PER_SECOND = 1_000_000;
/** Seconds below 2^28 are relative to now (RFC 8428, 4.5.3): a pack cannot say when these were. */
export const SENML_NS_MIN = 2n ** 28n * 1_000_000_000n;

/** A DEV URN (RFC 9039) would need a number that is registered; names may hold `A-Z a-z 0-9 - : . / _` (RFC 8428, 4.5.1), as ids and metrics do. */
export function senmlBaseName(deviceId: string): string {
  return `urn:downlink:device:${deviceId}:`;
}

/** Records as maps from labels to values. Times are of 1978-07-04 or later. */
export function senmlPack(deviceId: string, readings: PackReadings, form: 'json' | 'cbor'): Map<string | number, MetricValue>[] {
  const label = LABELS[form];
  return Array.from(readings, ([metric, { timeNs, value }], i) => {
    const record = new Map<string | number, MetricValue>();
    if (i === 0) record.set(label.bn, senmlBaseName(deviceId));
    record.set(label.n, metric);
    record.set(label.t, Number(timeNs / NS_PER_MICRO) / MICROS_PER_SECOND);
    record.set(label[typeof value as 'number' | 'string' | 'boolean'], value);
    return record;
  });
}
