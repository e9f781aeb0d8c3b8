import { Type, type Static } from 'typebox';
import type { FleetKey } from '../../broker/registry/fleet-keys.ts';
import { deviceLimitsSchema, labelsSchema, wakeScheduleSchema } from '../../devices/device.ts';
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

/** Fleet keys, with which new devices register themselves: make, list, revoke. For admins alone. */
const QUOTA_MAX = 1_000_000;

const given = {
  name: Type.String({ minLength: 1, maxLength: 200, description: 'For people' }),
  idPrefix: Type.Optional(
    Type.String({ pattern: '^[A-Za-z0-9._-]{1,63}$', description: 'With what the ids of its devices begin' }),
  ),
  quota: Type.Integer({ minimum: 1, maximum: QUOTA_MAX, description: 'How many devices it may register in all' }),
  wake: Type.Optional(wakeScheduleSchema),
  graceSeconds: Type.Optional(Type.Integer({ minimum: 0, maximum: 86_400 })),
  limits: Type.Optional(deviceLimitsSchema),
};

export const fleetKeySchema = Type.Object(
  {
    id: Type.String(),
    ...given,
    labels: labelsSchema,
    registered: Type.Integer({ description: 'Devices it has registered, also those deleted since' }),
    createdAt: timeSchema,
    expiresAt: Type.Optional(timeSchema),
  },
  { $id: 'FleetKey' },
);

const newFleetKeySchema = Type.Object(
  {
    ...given,
    labels: Type.Optional(labelsSchema),
    expiresAt: Type.Optional(expiresAtSchema),
    expiresInSeconds: Type.Optional(expiresInSecondsSchema),
  },
  {
    additionalProperties: false,
    examples: [{ name: 'meters of May', labels: { batch: 'may' }, idPrefix: 'meter-', quota: 500, expiresInSeconds: 2_592_000 }],
  },
);

export function fleetKeysRoutes(app: Api, parts: ApiParts): void {
  const { fleetKeys, clock } = parts;
  const tags = [TAGS.provisioning];
  const onRequest = operatorAuth(parts, 'admin');

  app.post(
    '/v1/fleet-keys',
    {
      onRequest,
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'makeFleetKey',
        summary: 'Make a fleet key',
        description:
          'Role: admin. The secret is shown only this once. Labels and limits are what its devices get; `wake` holds for those that say none of their own.',
        body: newFleetKeySchema,
        response: {
          201: Type.Object({ key: refTo(fleetKeySchema), secret: Type.String({ examples: ['dlf_…'] }) }, { description: 'Made' }),
          ...guardedProblems(...JSON_BODY_PROBLEMS, 'quota_exhausted', 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { expiresAt, expiresInSeconds, ...asked } = request.body;
      const expiry = {
        ...(expiresAt !== undefined && { expiresAt }),
        ...(expiresInSeconds !== undefined && { expiresInSeconds }),
      };
      const audited = auditedAs(parts, request, 'fleet_key.create');
      const { key, secret } = await fleetKeys.create({ ...asked, expiresAt: expiryOf(expiry, clock.now()) }, (made) =>
        audited(made, { name: made.name, quota: made.quota }),
      );
      reply.code(201).header('cache-control', 'no-store');
      return { key: fleetKeyView(key), secret };
    },
  );

  app.get(
    '/v1/fleet-keys',
    {
      onRequest,
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'listFleetKeys',
        summary: 'List fleet keys',
        description: 'Role: admin.',
        querystring: Type.Object(pageParameters, { additionalProperties: false }),
        response: {
          200: Type.Object({ fleetKeys: Type.Array(refTo(fleetKeySchema)), cursor: cursorField }, { description: 'A page' }),
          ...guardedProblems('invalid_cursor'),
        },
      },
    },
    (request) => {
      const { limit = PAGE_DEFAULT, cursor } = request.query;
      const found = fleetKeys.list({ limit: limit + 1, after: placeOf('fleet-keys', cursor, /^[a-z0-9-]{1,64}$/) });
      const { shown, next } = pageOf('fleet-keys', found, limit, ({ id }) => id);
      return { fleetKeys: shown.map(fleetKeyView), ...next };
    },
  );

  app.delete(
    '/v1/fleet-keys/:id',
    {
      onRequest,
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'revokeFleetKey',
        summary: 'Revoke a fleet key',
        description: 'Role: admin. It registers nothing from now on; the devices that it has registered stay.',
        params: Type.Object({ id: Type.String({ maxLength: 64 }) }),
        response: { 204: noContent('Revoked'), ...guardedProblems('unknown_key', 'storage_unavailable') },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      await fleetKeys.revoke(id, auditedAs(parts, request, 'fleet_key.revoke')({ id }));
      return reply.code(204).send();
    },
  );
}

function fleetKeyView({ createdAt, expiresAt, ...key }: FleetKey): Static<typeof fleetKeySchema> {
  return { ...key, createdAt: rfc3339(createdAt), ...(expiresAt !== undefined && { expiresAt: rfc3339(expiresAt) }) };
}
