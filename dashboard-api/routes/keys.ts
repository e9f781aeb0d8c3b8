import { Type, type Static } from 'typebox';
import { ROLES, type OperatorKey } from '../../broker/registry/operator-keys.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { operatorAuth } from '../auth-operator.ts';
import { cursorOf, PAGE_DEFAULT, PAGE_MAX, placeOf } from '../cursor.ts';
import {
  BY_OPERATOR,
  cursorField,
  cursorParameter,
  guardedProblems,
  JSON_BODY_PROBLEMS,
  limitParameter,
  noContent,
  refTo,
  TAGS,
  timeSchema,
} from '../openapi.ts';
import type { LiveStreams } from '../stream/live-streams.ts';
import { rfc3339 } from '../times.ts';

/** Operators' keys: make, list, revoke. For admins alone. */
const roleSchema = Type.Enum([...ROLES], {
  description: 'viewer reads; operator also issues and cancels commands; admin also manages devices and keys',
});

export const keySchema = Type.Object(
  { id: Type.String(), name: Type.String(), role: roleSchema, createdAt: timeSchema },
  { $id: 'OperatorKey', examples: [{ id: 'admin', name: 'first admin', role: 'admin', createdAt: '2026-01-01T00:00:00.000Z' }] },
);

export function keysRoutes(app: Api, parts: ApiParts, streams: LiveStreams): void {
  const { keys } = parts;
  const tags = [TAGS.keys];
  const onRequest = operatorAuth(parts, 'admin');

  app.post(
    '/v1/keys',
    {
      onRequest,
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'makeKey',
        summary: 'Make a key',
        description: 'Role: admin. The secret is shown only this once.',
        body: Type.Object(
          { name: Type.String({ minLength: 1, maxLength: 200, description: 'Whose it is' }), role: roleSchema },
          { additionalProperties: false, examples: [{ name: 'night shift', role: 'operator' }] },
        ),
        response: {
          201: Type.Object({ key: refTo(keySchema), secret: Type.String({ examples: ['dlk_…'] }) }, { description: 'Made' }),
          ...guardedProblems(...JSON_BODY_PROBLEMS, 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { key, secret } = await keys.create(request.body);
      reply.code(201).header('cache-control', 'no-store');
      return { key: keyView(key), secret };
    },
  );

  app.get(
    '/v1/keys',
    {
      onRequest,
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'listKeys',
        summary: 'List keys',
        description: 'Role: admin.',
        querystring: Type.Object(
          { limit: limitParameter(PAGE_MAX, PAGE_DEFAULT), cursor: cursorParameter },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object({ keys: Type.Array(refTo(keySchema)), cursor: cursorField }, { description: 'A page' }),
          ...guardedProblems('invalid_cursor'),
        },
      },
    },
    (request) => {
      const { limit = PAGE_DEFAULT, cursor } = request.query;
      const found = keys.list({ limit: limit + 1, after: placeOf('keys', cursor, /^[a-z0-9-]{1,64}$/) });
      const shown = found.slice(0, limit);
      const last = shown.at(-1);
      return {
        keys: shown.map(keyView),
        ...(found.length > limit && last !== undefined && { cursor: cursorOf('keys', last.id) }),
      };
    },
  );

  app.delete(
    '/v1/keys/:id',
    {
      onRequest,
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'revokeKey',
        summary: 'Revoke a key',
        description: 'Role: admin. It is refused from now on, and live streams opened with it end.',
        params: Type.Object({ id: Type.String({ maxLength: 64 }) }),
        response: { 204: noContent('Revoked'), ...guardedProblems('unknown_key', 'last_admin_key', 'storage_unavailable') },
      },
    },
    async (request, reply) => {
      await keys.revoke(request.params.id);
      streams.cut(request.params.id);
      return reply.code(204).send();
    },
  );
}

function keyView({ id, name, role, createdAt }: OperatorKey): Static<typeof keySchema> {
  return { id, name, role, createdAt: rfc3339(createdAt) };
}
