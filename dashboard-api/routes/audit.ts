import { Type, type Static } from 'typebox';
import { ACTOR_KINDS, AUDIT_ACTIONS, AUDIT_KEPT_DAYS, type AuditEntry } from '../../broker/audit.ts';
import type { JsonValue } from '../../devices/json.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { operatorAuth } from '../auth-operator.ts';
import { cursorOf, PAGE_DEFAULT, placeOf } from '../cursor.ts';
import { BY_OPERATOR, cursorField, guardedProblems, pageParameters, refTo, TAGS, timeParameter, timeSchema } from '../openapi.ts';
import { msOf, rfc3339 } from '../times.ts';

/** The audit log: who did what. For admins alone. */
export const auditSchema = Type.Object(
  {
    id: Type.String(),
    time: timeSchema,
    actor: Type.Object({
      kind: Type.Enum([...ACTOR_KINDS]),
      id: Type.String({ description: "A key's id, or `oidc:` and the subject of an identity provider's token" }),
      name: Type.String({ description: 'As it was then' }),
    }),
    action: Type.Enum([...AUDIT_ACTIONS]),
    target: Type.Optional(Type.String({ description: 'Id of the device, command or key' })),
    outcome: Type.Enum(['done', 'refused']),
    from: Type.Optional(Type.String({ description: 'The address it came from' })),
    details: Type.Optional(Type.Unsafe<JsonValue>({ description: 'More, by action' })),
  },
  {
    $id: 'AuditEntry',
    examples: [
      {
        id: '1767225600000000',
        time: '2026-01-01T00:00:00.000Z',
        actor: { kind: 'key', id: 'admin', name: 'first admin' },
        action: 'device.create',
        target: 'meter-7',
        outcome: 'done',
        from: '127.0.0.1',
      },
    ],
  },
);

export function auditRoutes(app: Api, parts: ApiParts): void {
  app.get(
    '/v1/audit',
    {
      onRequest: operatorAuth(parts, 'admin'),
      schema: {
        tags: [TAGS.audit],
        security: BY_OPERATOR,
        operationId: 'listAudit',
        summary: 'Who did what, newest first',
        description:
          `Role: admin. Kept here for ${AUDIT_KEPT_DAYS} days, of commands, of refused logins and of all else the last ${parts.limits.bounds.audit_entries} each; all of it is in ` +
          'History (measurement `audit`). Refused logins are counted by address and told once a minute. A page may hold fewer than `limit` and still ' +
          'have a cursor.',
        querystring: Type.Object(
          {
            actor: Type.Optional(Type.String({ maxLength: 300, description: 'Id of a key, or `oidc:…`' })),
            action: Type.Optional(Type.String({ maxLength: 64, description: 'Such as `key.revoke`, or `key` for all of them' })),
            target: Type.Optional(
              Type.String({ maxLength: 128, description: "Id of a device, command or key; a device's also finds its commands" }),
            ),
            from: timeParameter('At or after'),
            to: timeParameter('Before'),
            ...pageParameters,
          },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object({ entries: Type.Array(refTo(auditSchema)), cursor: cursorField }, { description: 'A page' }),
          ...guardedProblems('invalid_cursor'),
        },
      },
    },
    async (request) => {
      const { actor, action, target, from, to, limit = PAGE_DEFAULT, cursor } = request.query;
      const { entries, next } = await parts.audit.list({
        actor,
        action,
        target,
        from: from === undefined ? undefined : msOf(from, 'query.from'),
        to: to === undefined ? undefined : msOf(to, 'query.to'),
        before: placeOf('audit', cursor, /^\d{16}$/),
        limit,
      });
      return { entries: entries.map(auditView), ...(next !== undefined && { cursor: cursorOf('audit', next) }) };
    },
  );
}

function auditView({ at, ...entry }: AuditEntry): Static<typeof auditSchema> {
  const { id, actor, action, target, outcome, from, details } = entry;
  return {
    id,
    time: rfc3339(at),
    actor,
    action,
    ...(target !== undefined && { target }),
    outcome,
    ...(from !== undefined && { from }),
    ...(details !== undefined && { details }),
  };
}
