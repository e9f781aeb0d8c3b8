import { isMetricName } from '../../../devices/telemetry.ts';
import type { Point, ReadingsQuery } from '../history.ts';
import { fieldOfMetric, GIVEN_TS_FIELD, metricOfField } from '../line-protocol.ts';
import type { InfluxClient, Rows } from './influx-client.ts';
import { nsOfTime, TIME_MAX, TIME_MIN, timeCondition } from './influx-time.ts';

/**
 * A field has one type a shard, and another in the next perhaps. Without a cast InfluxQL answers with the values of one type alone and
 * leaves the others out in silence, so each is asked for.
 */
const TYPES = ['float', 'string', 'boolean'] as const;
export type Field = { readonly name: string; readonly type: string };

const MARKS_A_QUERY = 10_000;
const STATEMENTS_A_QUERY = 500;

export async function readings(client: InfluxClient, query: ReadingsQuery): Promise<Point[]> {
  const { deviceId, metric, fromNs, toNs, limit } = query;
  if (!isMetricName(metric) || limit <= 0 || fromNs >= toNs) return [];
  const values = fieldsOf(metric)
    .map((field) => `${castOf(field)} AS ${field.type}`)
    .join(', ');
  const statement = `SELECT ${values} FROM telemetry WHERE device = $device AND ${timeCondition(fromNs, toNs)} LIMIT ${limit}`;
  const [rows = []] = await client.query([statement], { device: deviceId });
  const points = rows.flatMap((row): Point[] => {
    const value = row['float'] ?? row['string'] ?? row['boolean'] ?? null;
    return value === null ? [] : [{ timeNs: timeOf(row), value }];
  });
  return marked(client, deviceId, points);
}

/** `points` (oldest first) with the devices' own times where they were replaced. */
async function marked(client: InfluxClient, deviceId: string, points: Point[]): Promise<Point[]> {
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined) return points;
  const marks = new Map<bigint, number | undefined>(points.map((point) => [point.timeNs, undefined]));
  for (let fromNs = first.timeNs; fromNs <= last.timeNs;) {
    const range = timeCondition(fromNs, last.timeNs + 1n);
    const statement = `SELECT "${GIVEN_TS_FIELD}" AS mark FROM telemetry WHERE device = $device AND ${range} LIMIT ${MARKS_A_QUERY}`;
    const [rows = []] = await client.query([statement], { device: deviceId });
    for (const row of rows) {
      const timeNs = timeOf(row);
      if (marks.has(timeNs)) marks.set(timeNs, Number(row['mark']));
      fromNs = timeNs + 1n;
    }
    if (rows.length < MARKS_A_QUERY) break;
  }
  return points.map((point) => {
    const givenTs = marks.get(point.timeNs);
    return givenTs === undefined ? point : { ...point, givenTs };
  });
}

/** The newest reading of each metric that the device has. */
export async function latest(client: InfluxClient, deviceId: string): Promise<Map<string, Point>> {
  const [rows = []] = await client.query(['SHOW FIELD KEYS FROM telemetry']);
  const fields = rows
    .map((row) => ({ name: String(row['fieldKey']), type: String(row['fieldType']) }))
    .filter(({ name, type }) => isMetricName(metricOfField(name)) && TYPES.some((known) => known === type));
  const points = await newest(client, deviceId, fields);
  const statements = Array.from(
    points.values(),
    ({ timeNs }) => `SELECT "${GIVEN_TS_FIELD}" AS mark FROM telemetry WHERE device = $device AND time = ${timeNs}`,
  );
  const marks = await queryMany(client, deviceId, statements);
  return new Map(
    Array.from(points, ([metric, point], i) => {
      const mark = marks[i]?.[0]?.['mark'] ?? null;
      return [metric, mark === null ? point : { ...point, givenTs: Number(mark) }];
    }),
  );
}

/** The newest of `fields` of a device, by metric name. A statement each: one for several fields could not tell their times. */
export async function newest(
  client: InfluxClient,
  deviceId: string,
  fields: readonly Field[],
  range = timeCondition(TIME_MIN, TIME_MAX),
): Promise<Map<string, Point>> {
  const statements = fields.map((field) => `SELECT last(${castOf(field)}) FROM telemetry WHERE device = $device AND ${range}`);
  const answers = await queryMany(client, deviceId, statements);
  const points = new Map<string, Point>();
  for (const [i, { name }] of fields.entries()) {
    const row = answers[i]?.[0];
    const value = row?.['last'] ?? null;
    if (row === undefined || value === null) continue;
    const had = points.get(metricOfField(name));
    const timeNs = timeOf(row);
    if (had === undefined || had.timeNs < timeNs) points.set(metricOfField(name), { timeNs, value });
  }
  return points;
}

async function queryMany(client: InfluxClient, deviceId: string, statements: readonly string[]): Promise<Rows[]> {
  const answers: Rows[] = [];
  for (let from = 0; from < statements.length; from += STATEMENTS_A_QUERY) {
    answers.push(...(await client.query(statements.slice(from, from + STATEMENTS_A_QUERY), { device: deviceId })));
  }
  return answers;
}

/** What a metric's values may be stored as. */
export function fieldsOf(metric: string): Field[] {
  return TYPES.map((type) => ({ name: fieldOfMetric(metric), type }));
}

/** `name` is a metric's field, so there is nothing to escape in it. */
export function castOf({ name, type }: Field): string {
  return `"${name}"::${type}`;
}

export function timeOf(row: Rows[number]): bigint {
  return nsOfTime(String(row['time']));
}
