import type { FastifyRequest } from 'fastify';
import type { AuditAction } from '../broker/audit.ts';
import type { Addition } from '../broker/store/state.ts';
import type { JsonValue } from '../devices/json.ts';
import type { ApiParts } from './api-parts.ts';
import { operatorOf } from './auth-operator.ts';

/** The audit entry of what an operator's request does, to be committed with it. Details hold nothing secret. */
export function auditedAs(
  { audit }: Pick<ApiParts, 'audit'>,
  request: FastifyRequest,
  action: AuditAction,
): (target: { readonly id: string }, details?: JsonValue) => Addition {
  const { kind, id, name } = operatorOf(request);
  const deed = { actor: { kind, id, name }, action, from: request.ip };
  return (target, details) => audit.entryOf({ ...deed, target: target.id, ...(details !== undefined && { details }) });
}
