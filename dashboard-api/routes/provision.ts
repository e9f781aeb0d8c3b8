import type { FastifyReply, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { FleetKey } from '../../broker/registry/fleet-keys.ts';
import { deviceIdSchema, labelsSchema, wakeScheduleSchema } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { countRefusal } from '../auth-operator.ts';
import { deviceSchema, deviceView } from '../device-view.ts';
import { identify } from '../identify.ts';
import { admit } from '../rate-bounds.ts';
import { BY_FLEET_KEY, guardedProblems, JSON_BODY_PROBLEMS, refTo, TAGS } from '../openapi.ts';

/** A new device registers itself, with a fleet key. */
declare module 'fastify' {
  interface FastifyRequest {
    /** Set on the way into `POST /v1/provision`. */
    fleetKey: FleetKey | undefined;
  }
}

export function provisionRoutes(app: Api, parts: ApiParts): void {
  const { fleetKeys, audit } = parts;

  app.post(
    '/v1/provision',
    {
      onRequest: fleetKeyAuth(parts),
      schema: {
        tags: [TAGS.provisioning],
        security: BY_FLEET_KEY,
        operationId: 'provision',
        summary: 'Register oneself as a device, once',
        description:
          'With a fleet key. Answers with the token, which is shown only this once: keep it before you do anything else. An id that is registered already, ' +
          'also by an answer that was lost, is `device_exists`; an operator can rotate its token.',
        body: Type.Object(
          {
            id: deviceIdSchema,
            name: Type.Optional(Type.String({ minLength: 1, maxLength: 200, description: 'For people' })),
            labels: Type.Optional(labelsSchema),
            wake: Type.Optional(wakeScheduleSchema),
          },
          {
            additionalProperties: false,
            examples: [{ id: 'meter-8', labels: { firmware: '2.1' }, wake: { everySeconds: 900 } }],
          },
        ),
        response: {
          201: Type.Object(
            {
              device: refTo(deviceSchema),
              token: Type.String({ description: 'Shown this once; what is kept is its digest', examples: ['dld_…'] }),
            },
            { description: 'Registered' },
          ),
          ...guardedProblems(...JSON_BODY_PROBLEMS, 'device_exists', 'quota_exhausted', 'rate_limited', 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { id: keyId, name } = fleetKeyOf(request);
      const actor = { kind: 'fleet_key', id: keyId, name } as const;
      const { device, token } = await fleetKeys.provision(keyId, request.body, ({ id: target }) =>
        audit.entryOf({ actor, action: 'device.provision', target, from: request.ip }),
      );
      reply.code(201).header('cache-control', 'no-store');
      return { device: deviceView(parts, device), token };
    },
  );
}

/** An `onRequest` hook. Refuses with `unauthorized`, or `forbidden` for another kind of credential. */
function fleetKeyAuth(parts: ApiParts) {
  return (request: FastifyRequest, _: FastifyReply, done: (error?: Error) => void): void => {
    try {
      const caller = identify(parts, request.headers.authorization);
      if (!('fleetKey' in caller)) {
        throw new DownlinkError('forbidden', 'this route takes a fleet key; no other credential opens it');
      }
      admit(parts, request, `key:${caller.fleetKey.id}`);
      request.fleetKey = caller.fleetKey;
      done();
    } catch (error) {
      done(countRefusal(parts, request, error as Error));
    }
  };
}

function fleetKeyOf({ fleetKey }: FastifyRequest): FleetKey {
  if (fleetKey === undefined) throw new Error('bug: the route has no fleetKeyAuth');
  return fleetKey;
}
