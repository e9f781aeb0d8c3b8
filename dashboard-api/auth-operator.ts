import type { FastifyReply, FastifyRequest } from 'fastify';
import { ROLES, type Role } from '../broker/registry/operator-keys.ts';
import type { Operator } from '../broker/registry/operator.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';
import { admit as admitRequest, refusalOf } from './rate-bounds.ts';
import { identify, type IdentityParts } from './identify.ts';

/**
 * Lets operators in whose role suffices, by key or by token of the identity provider: viewer reads, operator also commands, admin also manages
 * devices and keys.
 */
declare module 'fastify' {
  interface FastifyRequest {
    /** Set by operatorAuth. */
    operator: Operator | undefined;
  }
}

type OperatorParts = IdentityParts & Pick<ApiParts, 'refusedLogins' | 'limits' | 'rejects' | 'log'>;

/**
 * An `onRequest` hook. Refuses with `unauthorized`, `forbidden` for a lesser role or another kind of credential, or
 * `identity_provider_unavailable`.
 */
export function operatorAuth(parts: OperatorParts, role: Role) {
  return (request: FastifyRequest, _: FastifyReply, done: (error?: Error) => void): void => {
    const refuse = (error: Error): void => {
      done(countRefusal(parts, request, error));
    };
    const admit = (operator: Operator): void => {
      admitRequest(parts, request, `key:${operator.id}`);
      if (operator.kind === 'key') parts.keys.used(operator.id, request.ip);
      assertRole(operator, role);
      request.operator = operator;
      done();
    };
    try {
      const caller = identify(parts, request.headers.authorization);
      if ('operator' in caller) return admit(caller.operator);
      if ('unverifiedToken' in caller && parts.identityProvider !== undefined) {
        parts.identityProvider.verify(caller.unverifiedToken).then(admit).catch(refuse);
        return;
      }
      const what = 'fleetKey' in caller ? 'a fleet key' : 'a device token';
      throw new DownlinkError('forbidden', `this route is for operators; ${what} does not open it`);
    } catch (error) {
      refuse(error as Error);
    }
  };
}

/** Whose request this is, on a route behind operatorAuth. */
export function operatorOf(request: FastifyRequest): Operator {
  const { operator } = request;
  if (operator === undefined) throw new Error('bug: the route has no operatorAuth');
  return operator;
}

/** A credential that is none is counted, for the audit log and for its address; what to answer. A request without a credential is no login. */
export function countRefusal(parts: Pick<ApiParts, 'refusedLogins' | 'limits'>, request: FastifyRequest, error: Error): Error {
  if (!(error instanceof DownlinkError) || error.code !== 'unauthorized' || request.headers.authorization === undefined)
    return error;
  parts.refusedLogins.count({ transport: 'http', from: request.ip });
  return refusalOf(parts, request, error);
}

function assertRole(operator: Operator, needed: Role): void {
  if (ROLES.indexOf(operator.role) >= ROLES.indexOf(needed)) return;
  throw new DownlinkError('forbidden', `this needs the role ${needed}; ${operator.name} has ${operator.role}`);
}
