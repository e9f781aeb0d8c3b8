import { Type } from 'typebox';
import { cancelAllOf } from '../../broker/commands/report-command.ts';
import {
  deviceIdSchema,
  deviceLimitsSchema,
  labelsSchema,
  wakeScheduleSchema,
  type Device,
  type Wake,
} from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { PRESENCE_STATES, type PresenceState } from '../../devices/presence.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { auditedAs } from '../audited.ts';
import { operatorAuth } from '../auth-operator.ts';
import { cursorOf, PAGE_DEFAULT, placeOf } from '../cursor.ts';
import { deviceSchema, deviceView } from '../device-view.ts';
import {
  BY_OPERATOR,
  cursorField,
  guardedProblems,
  JSON_BODY_PROBLEMS,
  pageParameters,
  noContent,
  refTo,
  TAGS,
} from '../openapi.ts';

/** Operators' routes for devices: register, list, show, change, delete, rotate or revoke the token. */
const nameSchema = Type.String({ minLength: 1, maxLength: 200, description: 'For people' });
const graceSchema = Type.Integer({
  minimum: 0,
  maximum: 86_400,
  description: 'How late a wake may be before it counts as missed; 60 when absent',
});

const newDeviceSchema = Type.Object(
  {
    id: deviceIdSchema,
    name: Type.Optional(nameSchema),
    labels: Type.Optional(labelsSchema),
    wake: Type.Optional(wakeScheduleSchema),
    graceSeconds: Type.Optional(graceSchema),
    limits: Type.Optional(deviceLimitsSchema),
  },
  {
    additionalProperties: false,
    examples: [{ id: 'meter-7', labels: { site: 'north' }, wake: { cron: '0 * * * *', timezone: 'Europe/Berlin' } }],
  },
);

const changeSchema = Type.Object(
  {
    name: Type.Optional(
      Type.Unsafe<string | null>({ ...nameSchema, type: ['string', 'null'], description: 'null takes it away' }),
    ),
    labels: Type.Optional(labelsSchema),
    wake: Type.Optional(
      Type.Unsafe<Wake | null>({
        anyOf: [...wakeScheduleSchema.anyOf, { type: 'null' }],
        description: 'A schedule, bounds, or null to take it away',
      }),
    ),
    graceSeconds: Type.Optional(graceSchema),
    limits: Type.Optional(deviceLimitsSchema),
  },
  { additionalProperties: false, minProperties: 1, examples: [{ labels: { site: 'south' }, wake: null }] },
);

const withToken = (description: string) =>
  Type.Object(
    {
      device: refTo(deviceSchema),
      token: Type.String({ description: 'Shown this once; what is kept is its digest', examples: ['dld_…'] }),
    },
    { description },
  );

const byId = Type.Object({ id: deviceIdSchema });

/** Devices looked at for one page: a filter by presence works each one's out. */
const SCANNED_MAX = 5_000;

export function devicesRoutes(app: Api, parts: ApiParts): void {
  const { registry, ledger, presence } = parts;
  const tags = [TAGS.devices];

  app.post(
    '/v1/devices',
    {
      onRequest: operatorAuth(parts, 'admin'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'registerDevice',
        summary: 'Register a device',
        description: 'Role: admin. Answers with the token, which is shown only this once.',
        body: newDeviceSchema,
        response: {
          201: withToken('Registered'),
          ...guardedProblems(...JSON_BODY_PROBLEMS, 'device_exists', 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { device, token } = await registry.create(request.body, auditedAs(parts, request, 'device.create'));
      reply.code(201).header('location', `/v1/devices/${device.id}`).header('cache-control', 'no-store');
      return { device: deviceView(parts, device), token };
    },
  );

  app.get(
    '/v1/devices',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'listDevices',
        summary: 'List devices by id',
        description: 'Role: viewer. A page filtered by presence may hold fewer than `limit` and still have a cursor.',
        querystring: Type.Object(
          {
            label: Type.Optional(
              Type.Array(Type.String({ maxLength: 320 }), {
                maxItems: 32,
                description: '`name:value`; repeated, all must match',
              }),
            ),
            presence: Type.Optional(
              Type.Array(Type.String({ maxLength: 128 }), {
                maxItems: 16,
                description: `Of ${PRESENCE_STATES.join(', ')}; repeated or with commas between, any may match`,
              }),
            ),
            ...pageParameters,
          },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object({ devices: Type.Array(refTo(deviceSchema)), cursor: cursorField }, { description: 'A page' }),
          ...guardedProblems('invalid_cursor'),
        },
      },
    },
    (request) => {
      const { label = [], limit = PAGE_DEFAULT, presence: given, cursor } = request.query;
      const states = given && statesOf(given);
      const after = placeOf('devices', cursor, /^[A-Za-z0-9._-]{1,64}$/);
      const { devices, next } = page(parts, { labels: labelsOf(label), states, limit, after });
      return {
        devices: devices.map((device) => deviceView(parts, device)),
        ...(next !== undefined && { cursor: cursorOf('devices', next) }),
      };
    },
  );

  app.get(
    '/v1/devices/:id',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'showDevice',
        summary: 'Show a device',
        description: 'Role: viewer. With its presence and the number of its open commands.',
        params: byId,
        response: { 200: refTo(deviceSchema, 'The device'), ...guardedProblems('unknown_device') },
      },
    },
    (request) => deviceView(parts, registry.get(request.params.id)),
  );

  app.patch(
    '/v1/devices/:id',
    {
      onRequest: operatorAuth(parts, 'admin'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'changeDevice',
        summary: 'Change a device',
        description:
          'Role: admin. What is left out stays; `labels` and `limits` are replaced whole; null takes `name` or `wake` away.',
        params: byId,
        body: changeSchema,
        response: {
          200: refTo(deviceSchema, 'The device'),
          ...guardedProblems(...JSON_BODY_PROBLEMS, 'unknown_device', 'storage_unavailable'),
        },
      },
    },
    async (request) => {
      const audited = auditedAs(parts, request, 'device.change');
      const device = await registry.change(request.params.id, request.body, (changed) => audited(changed, request.body));
      presence.refresh(device.id);
      parts.dispatcher.refresh(device.id);
      return deviceView(parts, device);
    },
  );

  app.delete(
    '/v1/devices/:id',
    {
      onRequest: operatorAuth(parts, 'admin'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'deleteDevice',
        summary: 'Delete a device',
        description: 'Role: admin. Cancels its open commands and cuts its connection. Its readings and commands stay in History.',
        params: byId,
        response: {
          204: noContent('Deleted'),
          ...guardedProblems('unknown_device', 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { id } = registry.get(request.params.id);
      await cancelAllOf(ledger, id);
      await Promise.all([registry.delete(id, auditedAs(parts, request, 'device.delete')), parts.telemetryKeys.forget(id)]);
      // One may have been issued while the others were being cancelled.
      await cancelAllOf(ledger, id);
      await Promise.all([presence.forget(id), parts.rejects.forget(id)]);
      parts.latest.forget(id);
      parts.ingest.forget(id);
      return reply.code(204).send();
    },
  );

  app.post(
    '/v1/devices/:id/token',
    {
      onRequest: operatorAuth(parts, 'admin'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'rotateToken',
        summary: "Rotate a device's token",
        description: 'Role: admin. The old token is refused from now on, and a connection that used it is cut.',
        params: byId,
        response: { 200: withToken('The new token'), ...guardedProblems('unknown_device', 'storage_unavailable') },
      },
    },
    async (request, reply) => {
      const { device, token } = await registry.rotateToken(request.params.id, auditedAs(parts, request, 'token.rotate'));
      reply.header('cache-control', 'no-store');
      return { device: deviceView(parts, device), token };
    },
  );

  app.delete(
    '/v1/devices/:id/token',
    {
      onRequest: operatorAuth(parts, 'admin'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'revokeToken',
        summary: "Revoke a device's token",
        description:
          'Role: admin. The device stays, with its commands, but cannot come in any more, and its connections are cut; its presence is `revoked` until a ' +
          'token is made for it by POST. Revoking twice is fine.',
        params: byId,
        response: { 204: noContent('Revoked'), ...guardedProblems('unknown_device', 'storage_unavailable') },
      },
    },
    async (request, reply) => {
      await registry.revokeToken(request.params.id, auditedAs(parts, request, 'token.revoke'));
      return reply.code(204).send();
    },
  );
}

function page(
  { registry, presence }: ApiParts,
  asked: {
    labels: Record<string, string>;
    states: ReadonlySet<PresenceState> | undefined;
    limit: number;
    after: string | undefined;
  },
): { devices: Device[]; next: string | undefined } {
  const { labels, limit, states } = asked;
  if (states === undefined) {
    const found = registry.list({ limit: limit + 1, after: asked.after, labels });
    const devices = found.slice(0, limit);
    return { devices, next: found.length > limit ? devices.at(-1)?.id : undefined };
  }
  const scanned = registry.list({ limit: SCANNED_MAX + 1, after: asked.after, labels });
  const devices: Device[] = [];
  for (const [i, device] of scanned.entries()) {
    if (devices.length === limit || i === SCANNED_MAX) return { devices, next: scanned[i - 1]?.id };
    if (states.has(presence.presence(device.id).state)) devices.push(device);
  }
  return { devices, next: undefined };
}

function statesOf(given: readonly string[]): Set<PresenceState> {
  const names = given.flatMap((text) => text.split(','));
  const wrong = names.find((name) => !(PRESENCE_STATES as readonly string[]).includes(name));
  if (wrong === undefined) return new Set(names as PresenceState[]);
  throw new DownlinkError(
    'invalid_request',
    `query.presence: ${wrong.slice(0, 64) || 'an empty value'} is none of ${PRESENCE_STATES.join(', ')}`,
    { at: 'query.presence' },
  );
}

function labelsOf(given: readonly string[]): Record<string, string> {
  const labels = given.map((text) => {
    const colon = text.indexOf(':');
    if (colon < 1)
      throw new DownlinkError('invalid_request', 'query.label is name:value, such as site:north', { at: 'query.label' });
    return [text.slice(0, colon), text.slice(colon + 1)] as const;
  });
  return Object.fromEntries(labels);
}
