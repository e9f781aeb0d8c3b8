import { Type } from 'typebox';
import { deviceIdSchema } from '../../devices/device.ts';
import { ERROR_CODES } from '../../devices/error-codes.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { operatorAuth } from '../auth-operator.ts';
import { PAGE_DEFAULT, pageOf, placeOf } from '../cursor.ts';
import { BY_OPERATOR, cursorField, guardedProblems, pageParameters, TAGS, timeSchema } from '../openapi.ts';
import { rfc3339 } from '../times.ts';

/** Operators' routes for what was refused: devices' messages, and rows that History did not take. */
const rejectSchema = Type.Object(
  {
    time: timeSchema,
    transport: Type.Enum(['mqtt', 'http']),
    where: Type.String({ description: 'The topic or path' }),
    code: Type.Enum(Object.keys(ERROR_CODES)),
    message: Type.String(),
    excerpt: Type.String({ description: 'The beginning of what was sent' }),
  },
  { $id: 'Reject' },
);

const quarantinedSchema = Type.Object({
  time: timeSchema,
  line: Type.String({ description: 'The row as InfluxDB line protocol' }),
  reason: Type.String({ description: "History's words" }),
});

export function refusedRoutes(app: Api, parts: ApiParts): void {
  const tags = [TAGS.refused];

  app.get(
    '/v1/devices/:id/rejects',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'listRejects',
        summary: 'What a device sent that was refused, and why',
        description: 'Role: viewer. The last hundred, newest first.',
        params: Type.Object({ id: deviceIdSchema }),
        response: {
          200: Type.Object({ rejects: Type.Array(rejectSchema) }, { description: 'All that are kept' }),
          ...guardedProblems('unknown_device'),
        },
      },
    },
    async (request) => {
      const { id } = parts.registry.get(request.params.id);
      const rejects = await parts.rejects.list(id);
      return { rejects: rejects.map(({ at, ...reject }) => ({ time: rfc3339(at), ...reject })) };
    },
  );

  app.get(
    '/v1/quarantine',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'listQuarantine',
        summary: 'Rows that History refused by themselves',
        description:
          'Role: viewer. The newest ten thousand are kept, newest first. Such as text in a field that InfluxDB knows as a number.',
        querystring: Type.Object(pageParameters, { additionalProperties: false }),
        response: {
          200: Type.Object({ rows: Type.Array(quarantinedSchema), cursor: cursorField }, { description: 'A page' }),
          ...guardedProblems('invalid_cursor'),
        },
      },
    },
    async (request) => {
      const { limit = PAGE_DEFAULT, cursor } = request.query;
      const place = placeOf('quarantine', cursor, /^\d{1,12}$/);
      const found = await parts.quarantine.list({ limit: limit + 1, before: place === undefined ? undefined : Number(place) });
      const { shown, next } = pageOf('quarantine', found, limit, ({ n }) => String(n));
      return { rows: shown.map(({ at, line, reason }) => ({ time: rfc3339(at), line, reason })), ...next };
    },
  );
}
