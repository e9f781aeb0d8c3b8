import { DownlinkError } from '../../../devices/downlink-error.ts';
import { isMetricName, type MetricValue } from '../../../devices/telemetry.ts';
import type { Aggregate, WindowPoint, WindowsQuery } from '../history.ts';
import type { InfluxClient, Rows } from './influx-client.ts';
import { timeCondition } from './influx-time.ts';
import { castOf, fieldsOf, newest, timeOf } from './reading-queries.ts';

/** Aggregates of the values of each type, brought together: strings and booleans have count and last alone. */
export async function windows(client: InfluxClient, query: WindowsQuery): Promise<WindowPoint[]> {
  const { metric, fromNs, toNs, limit } = query;
  if (!isMetricName(metric) || limit <= 0 || fromNs >= toNs) return [];
  try {
    return await aggregated(client, query);
  } catch (error) {
    // A mean beyond the largest number: InfluxDB then answers with a Go error in place of JSON.
    const isUnreadable = error instanceof DownlinkError && error.cause instanceof SyntaxError;
    if (!isUnreadable || !query.aggregates.includes('mean')) throw error;
    const others = await aggregated(client, {
      ...query,
      aggregates: query.aggregates.filter((aggregate) => aggregate !== 'mean'),
    });
    return others.map((point) => ({ ...point, mean: null }));
  }
}

async function aggregated(client: InfluxClient, query: WindowsQuery): Promise<WindowPoint[]> {
  const { deviceId, metric, fromNs, toNs, windowMs, aggregates, limit } = query;
  const fields = fieldsOf(metric);
  const groups = windowMs === undefined ? '' : ` GROUP BY time(${windowMs}ms) fill(none)`;
  const statements = fields.map((field) => {
    const given = field.type === 'float' ? aggregates : aggregates.filter((aggregate) => aggregate === 'last');
    const calls = [...new Set<Aggregate>([...given, 'count'])].map((aggregate) => `${aggregate}(${castOf(field)})`);
    return `SELECT ${calls.join(', ')} FROM telemetry WHERE device = $device AND ${timeCondition(fromNs, toNs)}${groups} LIMIT ${limit}`;
  });
  const byStart = new Map<bigint, Rows>();
  for (const row of (await client.query(statements, { device: deviceId })).flat()) {
    const start = windowMs === undefined ? fromNs : timeOf(row);
    byStart.set(start, [...(byStart.get(start) ?? []), row]);
  }
  const points: WindowPoint[] = [];
  for (const [start, rows] of [...byStart].toSorted(([a], [b]) => (a < b ? -1 : 1)).slice(0, limit)) {
    const values: { [A in Aggregate]?: MetricValue | null } = {};
    for (const aggregate of aggregates) values[aggregate] = rows.find((row) => aggregate in row)?.[aggregate] ?? null;
    if (aggregates.includes('count')) values.count = rows.reduce((sum, row) => sum + Number(row['count']), 0);
    if (aggregates.includes('last') && rows.length > 1) {
      const end = windowMs === undefined ? toNs : start + BigInt(windowMs) * 1_000_000n;
      const range = timeCondition(start > fromNs ? start : fromNs, end < toNs ? end : toNs);
      values.last = (await newest(client, deviceId, fields, range)).get(metric)?.value ?? null;
    }
    points.push({ timeNs: start, ...values });
  }
  return points;
}
