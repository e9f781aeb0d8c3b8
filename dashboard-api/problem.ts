import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import type { Limits } from '../broker/limits/limits.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { ERROR_CODES, type ErrorCode } from '../devices/error-codes.ts';
import { rfc3339 } from './times.ts';
import { dropConnectionHeader } from './departure.ts';

/** Errors as answers: `application/problem+json` (RFC 9457) with our stable code, and the one table from codes to HTTP statuses. */
export const STATUS_OF = {
  invalid_request: 400,
  invalid_json: 400,
  invalid_telemetry: 400,
  invalid_report: 400,
  invalid_cursor: 400,
  body_too_large: 413,
  unsupported_media_type: 415,
  unauthorized: 401,
  forbidden: 403,
  quota_exhausted: 403,
  not_found: 404,
  unknown_device: 404,
  unknown_command: 404,
  unknown_key: 404,
  foreign_topic: 403,
  unknown_topic: 404,
  device_exists: 409,
  command_finished: 409,
  command_delivered: 409,
  idempotency_conflict: 409,
  last_admin_key: 409,
  queue_full: 429,
  rate_limited: 429,
  expires_before_next_wake: 422,
  journal_full: 503,
  history_unavailable: 503,
  identity_provider_unavailable: 503,
  storage_unavailable: 503,
  shutting_down: 503,
  too_many_streams: 503,
  internal: 500,
} as const satisfies Record<ErrorCode, number>;

/** In Fastify's words. */
const BODY_TOO_LARGE = 'FST_ERR_CTP_BODY_TOO_LARGE';
export const PROBLEM_TYPE = 'application/problem+json';

export type Problem = {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly at?: string;
  readonly nextWakeAt?: string;
  readonly expiresInSecondsMin?: number;
};

export function problemOf(error: DownlinkError): Problem {
  const { code, message, at, remedy } = error;
  return {
    type: `urn:downlink:problem:${code}`,
    title: ERROR_CODES[code],
    status: STATUS_OF[code],
    detail: message,
    code,
    ...(at !== undefined && { at }),
    ...(remedy !== undefined && { ...remedy, nextWakeAt: rfc3339(remedy.nextWakeAt) }),
  };
}

export function sendProblem(reply: FastifyReply, error: DownlinkError): FastifyReply {
  dropConnectionHeader(reply);
  const problem = problemOf(error);
  if (error.retryAfterSeconds !== undefined) reply.header('retry-after', error.retryAfterSeconds);
  if (error.code === 'unauthorized') reply.header('www-authenticate', 'Bearer realm="downlink"');
  return reply.code(problem.status).type(PROBLEM_TYPE).send(problem);
}

/** The answer to whatever a route, a hook or Fastify itself threw. What is no refusal of ours is logged and told as `internal`. */
export function errorHandler({ log, limits }: { readonly log: Logger; readonly limits: Pick<Limits, 'reached'> }) {
  return (thrown: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    const error = downlinkErrorOf(thrown);
    if ('code' in thrown && thrown.code === BODY_TOO_LARGE) {
      limits.reached('body_bytes', { address: request.ip, client: request.device?.id ?? request.operator?.id });
    }
    if (error.code === 'internal') log.error({ err: thrown, method: request.method, url: request.url }, 'a request failed');
    return sendProblem(reply, error);
  };
}

/** Fastify's own refusals in our codes; anything unknown becomes `internal`, with nothing of it told. */
export function downlinkErrorOf(thrown: FastifyError | Error): DownlinkError {
  if (thrown instanceof DownlinkError) return thrown;
  switch ('code' in thrown ? thrown.code : undefined) {
    case BODY_TOO_LARGE:
      return new DownlinkError('body_too_large', 'the body is larger than this route takes');
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
    case 'FST_ERR_CTP_INVALID_TYPE':
    case 'FST_ERR_CTP_EMPTY_TYPE':
      return new DownlinkError('unsupported_media_type', 'the content type is not one this route reads; send application/json', {
        at: 'Content-Type',
      });
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new DownlinkError('invalid_request', 'the body is not as long as Content-Length says', { at: 'Content-Length' });
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new DownlinkError('invalid_request', 'the path is malformed or a part of it is too long', { at: 'path' });
    default:
      return isTheClients(thrown)
        ? new DownlinkError('invalid_request', 'the request was cut short or is malformed')
        : new DownlinkError('internal', 'a fault of the server; it is logged', { cause: thrown });
  }
}

/** A body whose stream broke (the client went away) comes with its own 4xx from Fastify. */
function isTheClients(thrown: Error): boolean {
  const status = 'statusCode' in thrown ? thrown.statusCode : undefined;
  return typeof status === 'number' && status >= 400 && status < 500;
}
