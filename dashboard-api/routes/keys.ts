import { Type, type Static } from 'typebox';
import { mqttRightsSchema, type MqttRights } from '../../broker/registry/mqtt-rights.ts';
import { ROLES, type OperatorKey } from '../../broker/registry/operator-keys.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { auditedAs } from '../audited.ts';
import { operatorAuth } from '../auth-operator.ts';
import { PAGE_DEFAULT, pageOf, placeOf } from '../cursor.ts';
import { expiresAtSchema, expiresInSecondsSchema, expiryOf } from '../expiry.ts';
import {
  BY_OPERATOR,
  cursorField,
  guardedProblems,
  JSON_BODY_PROBLEMS,
  pageParameters,
  noContent,
  refTo,
  TAGS,
  timeSchema,
} from '../openapi.ts';
import { rfc3339 } from '../times.ts';

/** Operators' keys: make, list, change, revoke. For admins alone. */
const roleSchema = Type.Enum([...ROLES], {
  description: 'viewer reads; operator also issues and cancels commands; admin also manages devices and keys',
});
const nameSchema = Type.String({ minLength: 1, maxLength: 200, description: 'Whose it is' });

export const keySchema = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    role: roleSchema,
    createdAt: timeSchema,
    expiresAt: Type.Optional(timeSchema),
    lastUsedAt: Type.Optional(timeSchema),
    lastUsedFrom: Type.Optional(Type.String({ description: 'The address it was last used from' })),
    mqtt: Type.Optional(mqttRightsSchema),
  },
  {
    $id: 'OperatorKey',
    examples: [
      {
        id: 'admin',
        name: 'first admin',
        role: 'admin',
        createdAt: '2026-01-01T00:00:00.000Z',
        lastUsedAt: '2026-01-02T09:00:03.120Z',
        lastUsedFrom: '127.0.0.1',
      },
    ],
  },
);

const newKeySchema = Type.Object(
  {
    name: nameSchema,
    role: roleSchema,
    expiresAt: Type.Optional(expiresAtSchema),
    expiresInSeconds: Type.Optional(expiresInSecondsSchema),
    mqtt: Type.Optional(mqttRightsSchema),
  },
  {
    additionalProperties: false,
    examples: [
      { name: 'night shift', role: 'operator', expiresInSeconds: 2_592_000 },
      { name: 'charts', role: 'viewer', mqtt: { allow: [{ filter: 'devices/+/telemetry', subscribe: true }] } },
    ],
  },
);

const keyChangeSchema = Type.Object(
  {
    name: Type.Optional(nameSchema),
    role: Type.Optional(roleSchema),
    expiresAt: Type.Optional(
      Type.Unsafe<string | number | null>({
        ...expiresAtSchema,
        type: ['string', 'integer', 'null'],
        description: 'RFC 3339 or epoch milliseconds; null: never',
      }),
    ),
    expiresInSeconds: Type.Optional(expiresInSecondsSchema),
    mqtt: Type.Optional(
      Type.Unsafe<MqttRights | null>({ anyOf: [mqttRightsSchema, { type: 'null' }], description: 'null takes them away' }),
    ),
  },
  { additionalProperties: false, minProperties: 1, examples: [{ role: 'viewer', expiresAt: null }] },
);

const byId = Type.Object({ id: Type.String({ maxLength: 64 }) });

export function keysRoutes(app: Api, parts: ApiParts): void {
  const { keys, clock } = parts;
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
        body: newKeySchema,
        response: {
          201: Type.Object({ key: refTo(keySchema), secret: Type.String({ examples: ['dlk_…'] }) }, { description: 'Made' }),
          ...guardedProblems(...JSON_BODY_PROBLEMS, 'quota_exhausted', 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { name, role, mqtt, ...expiry } = request.body;
      const audited = auditedAs(parts, request, 'key.create');
      const { key, secret } = await keys.create({ name, role, mqtt, expiresAt: expiryOf(expiry, clock.now()) }, (made) =>
        audited(made, { name, role, ...(made.expiresAt !== undefined && { expiresAt: rfc3339(made.expiresAt) }) }),
      );
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
        description: 'Role: admin. Expired ones are listed until they are revoked.',
        querystring: Type.Object(pageParameters, { additionalProperties: false }),
        response: {
          200: Type.Object({ keys: Type.Array(refTo(keySchema)), cursor: cursorField }, { description: 'A page' }),
          ...guardedProblems('invalid_cursor'),
        },
      },
    },
    (request) => {
      const { limit = PAGE_DEFAULT, cursor } = request.query;
      const found = keys.list({ limit: limit + 1, after: placeOf('keys', cursor, /^[a-z0-9-]{1,64}$/) });
      const { shown, next } = pageOf('keys', found, limit, ({ id }) => id);
      return { keys: shown.map(keyView), ...next };
    },
  );

  app.patch(
    '/v1/keys/:id',
    {
      onRequest,
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'changeKey',
        summary: 'Change a key',
        description:
          'Role: admin. What is left out stays. Another role or other rights on MQTT end what the key has open (live streams, waiting requests, ' +
          'MQTT connections), so that it comes back with them.',
        params: byId,
        body: keyChangeSchema,
        response: {
          200: refTo(keySchema, 'The key'),
          ...guardedProblems(...JSON_BODY_PROBLEMS, 'unknown_key', 'last_admin_key', 'storage_unavailable'),
        },
      },
    },
    async (request) => {
      const { expiresAt, expiresInSeconds, ...change } = request.body;
      const expiry = {
        ...(expiresAt !== undefined && { expiresAt }),
        ...(expiresInSeconds !== undefined && { expiresInSeconds }),
      };
      const audited = auditedAs(parts, request, 'key.change');
      const wanted = { ...change, expiresAt: expiryOf(expiry, clock.now()) };
      return keyView(await keys.change(request.params.id, wanted, (key) => audited(key, request.body)));
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
        description:
          'Role: admin. It is refused from now on, and what it has open ends: live streams, waiting requests, MQTT connections.',
        params: byId,
        response: { 204: noContent('Revoked'), ...guardedProblems('unknown_key', 'last_admin_key', 'storage_unavailable') },
      },
    },
    async (request, reply) => {
      const { id, name } = keys.get(request.params.id);
      await keys.revoke(id, auditedAs(parts, request, 'key.revoke')({ id }, { name }));
      return reply.code(204).send();
    },
  );
}

function keyView({ createdAt, expiresAt, lastUsedAt, ...key }: OperatorKey): Static<typeof keySchema> {
  return {
    ...key,
    createdAt: rfc3339(createdAt),
    ...(expiresAt !== undefined && { expiresAt: rfc3339(expiresAt) }),
    ...(lastUsedAt !== undefined && { lastUsedAt: rfc3339(lastUsedAt) }),
  };
}
