import { Type, type Static } from 'typebox';
import { AGGREGATES, type Aggregate, type Point, type WindowPoint } from '../../broker/store/history.ts';
import { deviceIdSchema } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { isMetricName } from '../../devices/telemetry.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { operatorAuth } from '../auth-operator.ts';
import { cursorOf, nsPlaceOf } from '../cursor.ts';
import {
  BY_OPERATOR,
  cursorField,
  cursorParameter,
  guardedProblems,
  limitParameter,
  TAGS,
  timeParameter,
  timeSchema,
} from '../openapi.ts';
import { sendSenml, senmlFormOf } from '../senml-answer.ts';
import { durationMsOf, nsOf, rfc3339OfNs, TIME_NS_MAX } from '../times.ts';

/** Operators' routes for readings. What was acknowledged before the question is in the answer. */
const POINTS_DEFAULT = 1_000;
const POINTS_MAX = 10_000;
const CATCH_UP_MS_MAX = 2_000;
const WINDOW_AGGREGATES: readonly Aggregate[] = ['mean', 'min', 'max', 'count'];

const valueSchema = Type.Unsafe<number | boolean | string>({ type: ['number', 'boolean', 'string'] });
const aggregateSchema = Type.Optional(
  Type.Unsafe<number | boolean | string | null>({ type: ['number', 'boolean', 'string', 'null'] }),
);

const readingFields = {
  time: timeSchema,
  value: valueSchema,
  givenTs: Type.Optional(
    Type.Number({
      description: "The device's own time, epoch milliseconds, where it was out of bounds and the server's took its place",
    }),
  ),
};

const pointSchema = Type.Object(
  {
    ...readingFields,
    value: Type.Optional(valueSchema),
    mean: aggregateSchema,
    min: aggregateSchema,
    max: aggregateSchema,
    count: aggregateSchema,
    last: aggregateSchema,
  },
  { description: '`value` of a raw reading; of a window its start and what was asked for, null where its values have none' },
);

const byDevice = Type.Object({ id: deviceIdSchema });

export function telemetryRoutes(app: Api, parts: ApiParts): void {
  const { registry, history, shipper, latest } = parts;
  const tags = [TAGS.telemetry];

  app.get(
    '/v1/devices/:id/telemetry',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'readTelemetry',
        summary: 'Readings of one metric, oldest first',
        description:
          'Role: viewer. Raw readings; with `window` and `fn` aggregates of each window that holds a reading; with `fn` alone one point over ' +
          'the whole range, its time being `from`. Windows start at multiples of their length since 1970 (weeks on Thursdays). Times have 6 or 9 decimals where ' +
          'readings lie between milliseconds.\n\nRaw readings come as a SenML pack (RFC 8428) where `Accept` prefers `application/senml+json` or `application/senml+cbor`; ' +
          'the next page is then in `Link`. What SenML has no word for, aggregates and `givenTs`, is told in JSON alone.',
        params: byDevice,
        querystring: Type.Object(
          {
            metric: Type.String({ maxLength: 64 }),
            from: timeParameter('At or after; all of the past when absent'),
            to: timeParameter('Before; no end when absent'),
            window: Type.Optional(Type.String({ maxLength: 16, description: '30s, 15m, 1h, 1d, 2w or plain seconds' })),
            fn: Type.Optional(
              Type.Array(Type.String({ maxLength: 64 }), {
                maxItems: 8,
                description: `Of ${AGGREGATES.join(', ')}, with commas between; ${WINDOW_AGGREGATES.join(',')} with a window`,
              }),
            ),
            limit: limitParameter(POINTS_MAX, POINTS_DEFAULT),
            cursor: cursorParameter,
          },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object(
            { device: deviceIdSchema, metric: Type.String(), points: Type.Array(pointSchema), cursor: cursorField },
            {
              description: 'A page',
              examples: [
                { device: 'meter-7', metric: 'temperature', points: [{ time: '2026-01-01T00:00:00.000Z', value: 21.5 }] },
              ],
            },
          ),
          ...guardedProblems('invalid_cursor', 'unknown_device', 'history_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { id } = registry.get(request.params.id);
      const { metric, limit = POINTS_DEFAULT, cursor, window, fn } = request.query;
      assertMetricName(metric);
      const place = nsPlaceOf('readings', cursor);
      const { fromNs, toNs } = rangeOf(request.query);
      const aggregates = fn === undefined ? undefined : aggregatesOf(fn);
      const windowMs = window === undefined ? undefined : durationMsOf(window, 'query.window');
      await shipper.caughtUp(CATCH_UP_MS_MAX);
      const range = { deviceId: id, metric, fromNs: place ?? fromNs, toNs, limit: limit + 1 };
      const found =
        windowMs === undefined && aggregates === undefined
          ? await history.readings(range)
          : await history.windows({
              ...range,
              ...(windowMs !== undefined && { windowMs }),
              aggregates: aggregates ?? WINDOW_AGGREGATES,
            });
      const next = found[limit];
      reply.header('vary', 'accept');
      const senml = windowMs === undefined && aggregates === undefined ? senmlFormOf(request) : undefined;
      if (senml !== undefined) {
        const readings = found.slice(0, limit).flatMap((point) => ('value' in point ? [[metric, point] as const] : []));
        const following = next && pathWithCursor(request.url, cursorOf('readings', next.timeNs.toString()));
        return sendSenml(reply, senml, id, readings, following);
      }
      return {
        device: id,
        metric,
        points: found.slice(0, limit).map((point) => ('value' in point ? readingView(point) : windowView(point))),
        ...(next !== undefined && { cursor: cursorOf('readings', next.timeNs.toString()) }),
      };
    },
  );

  app.get(
    '/v1/devices/:id/telemetry/latest',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'latestTelemetry',
        summary: 'The newest reading of each metric',
        description:
          'Role: viewer. A SenML pack (RFC 8428) where `Accept` prefers `application/senml+json` or `application/senml+cbor`.',
        params: byDevice,
        response: {
          200: Type.Object(
            { device: deviceIdSchema, metrics: Type.Record(Type.String(), Type.Object(readingFields)) },
            {
              description: 'By metric name',
              examples: [{ device: 'meter-7', metrics: { temperature: { time: '2026-01-01T00:00:00.000Z', value: 21.5 } } }],
            },
          ),
          ...guardedProblems('unknown_device', 'history_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { id } = registry.get(request.params.id);
      const points = await latest.of(id);
      reply.header('vary', 'accept');
      const senml = senmlFormOf(request);
      if (senml !== undefined) return sendSenml(reply, senml, id, points);
      return { device: id, metrics: Object.fromEntries(Array.from(points, ([metric, point]) => [metric, readingView(point)])) };
    },
  );
}

function assertMetricName(metric: string): void {
  if (isMetricName(metric)) return;
  throw new DownlinkError(
    'invalid_request',
    'query.metric is no metric name: a letter or _, then up to 63 of A-Z a-z 0-9 _ . -',
    {
      at: 'query.metric',
    },
  );
}

function rangeOf({ from, to }: { from?: string; to?: string }): { fromNs: bigint; toNs: bigint } {
  const fromNs = from === undefined ? 0n : nsOf(from, 'query.from');
  const toNs = to === undefined ? TIME_NS_MAX : nsOf(to, 'query.to');
  if (fromNs >= toNs) throw new DownlinkError('invalid_request', 'query.to is not after query.from', { at: 'query.to' });
  return { fromNs: atMost(fromNs, TIME_NS_MAX), toNs: atMost(toNs, TIME_NS_MAX) };
}

function pathWithCursor(path: string, cursor: string): string {
  const url = new URL(path, 'http://localhost');
  url.searchParams.set('cursor', cursor);
  return url.pathname + url.search;
}

function atMost(ns: bigint, most: bigint): bigint {
  return ns < most ? ns : most;
}

function aggregatesOf(given: readonly string[]): Aggregate[] {
  const names = new Set(given.flatMap((text) => text.split(',')));
  for (const name of names) {
    if ((AGGREGATES as readonly string[]).includes(name)) continue;
    throw new DownlinkError('invalid_request', `query.fn: ${name || 'an empty name'} is none of ${AGGREGATES.join(', ')}`, {
      at: 'query.fn',
    });
  }
  return AGGREGATES.filter((name) => names.has(name));
}

function readingView({ timeNs, value, givenTs }: Point): { time: string; value: Point['value']; givenTs?: number } {
  return { time: rfc3339OfNs(timeNs), value, ...(givenTs !== undefined && { givenTs }) };
}

function windowView({ timeNs, ...aggregates }: WindowPoint): Static<typeof pointSchema> {
  return { time: rfc3339OfNs(timeNs), ...aggregates };
}
