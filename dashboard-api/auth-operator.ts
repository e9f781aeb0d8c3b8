import type { FastifyReply, FastifyRequest } from 'fastify';
import { ROLES, type OperatorKey, type Role } from '../broker/registry/operator-keys.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';
import { identify } from './identify.ts';

/** Lets operators in whose role suffices: viewer reads, operator also commands, admin also manages devices and keys. */
declare module 'fastify' {
  interface FastifyRequest {
    /** Set by operatorAuth. */
    operator: OperatorKey | undefined;
  }
}

/** An `onRequest` hook. Refuses with `unauthorized`, or `forbidden` for a lesser role or a device's token. */
export function operatorAuth(parts: Pick<ApiParts, 'keys' | 'registry'>, role: Role) {
  const needed = ROLES.indexOf(role);
  return (request: FastifyRequest, _: FastifyReply, done: (error?: Error) => void): void => {
    try {
      const caller = identify(parts, request.headers.authorization);
      if (!('operator' in caller))
        throw new DownlinkError('forbidden', 'this route is for operators; a device token does not open it');
      const { operator } = caller;
      if (ROLES.indexOf(operator.role) < needed) {
        throw new DownlinkError('forbidden', `this needs the role ${role}; the key ${operator.name} has ${operator.role}`);
      }
      request.operator = operator;
      done();
    } catch (error) {
      done(error as Error);
    }
  };
}

/** Whose request this is, on a route behind operatorAuth. */
export function operatorOf(request: FastifyRequest): OperatorKey {
  const { operator } = request;
  if (operator === undefined) throw new Error('bug: the route has no operatorAuth');
  return operator;
}
