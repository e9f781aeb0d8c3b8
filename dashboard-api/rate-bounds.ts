import type { FastifyReply, FastifyRequest } from 'fastify';
import { SECOND_MS } from '../devices/clock.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';

/** Requests under the bounds: logins by address, requests and octets a second by who sends them. Beyond them is 429 with `Retry-After`. */
const NOTHING = new Uint8Array();

type Parts = Pick<ApiParts, 'limits'>;
type AdmitParts = Pick<ApiParts, 'limits' | 'rejects' | 'log'>;

/**
 * A credential is good: counts the request. `identity` is the device's id, or `key:` and the key's. Throws `rate_limited`, also where logins from its address are
 * paused and it was never let in from there.
 */
export function admit(parts: AdmitParts, request: FastifyRequest, identity: string): void {
  const { limits } = parts;
  const { headers, socket } = request.raw;
  // What Fastify finds as the address costs, and without a header of a proxy it is that of the connection.
  const ip = headers['x-forwarded-for'] === undefined ? (socket.remoteAddress ?? request.ip) : request.ip;
  const pauseSeconds = limits.logins.right(ip, identity);
  if (pauseSeconds > 0) throw pausedLogins(pauseSeconds);
  const waitMs = limits.requests.tryTake(identity);
  if (waitMs > 0) refuse(parts, request, 'requests_per_second', identity, waitMs);
  const { 'content-length': length } = headers;
  if (length === undefined && headers['transfer-encoding'] === undefined) return;
  // A body of unknown length counts as the longest; one that says it is longer is not read, and so counts as no more.
  const { bodyLimit: bytesMax } = request.routeOptions;
  const bytesWaitMs = limits.bytes.tryTake(identity, length === undefined ? bytesMax : Math.min(Number(length), bytesMax));
  if (bytesWaitMs > 0) refuse(parts, request, 'bytes_per_second', identity, bytesWaitMs);
}

/** A credential is wrong. What to throw in place of `error`, if logins from its address are paused: then nothing is said of the credential. */
export function refusalOf({ limits }: Parts, request: FastifyRequest, error: DownlinkError): DownlinkError {
  const pauseSeconds = limits.logins.wrong(request.ip);
  return pauseSeconds > 0 ? pausedLogins(pauseSeconds) : error;
}

/** An `onRequest` hook for routes that take no credential. */
export function boundOpenRequests({ limits }: Parts) {
  return (request: FastifyRequest, _: FastifyReply, done: (error?: Error) => void): void => {
    const waitMs = limits.takeOpenRequest(request.ip);
    if (waitMs === 0) return done();
    limits.reached('open_requests_per_second', { address: request.ip });
    done(
      rateLimited(
        `${limits.bounds.open_requests_per_second} requests a second from one address are taken without a credential`,
        waitMs,
      ),
    );
  };
}

const WHAT = { requests_per_second: 'requests', bytes_per_second: 'octets' } as const;

function refuse(
  { limits, rejects, log }: AdmitParts,
  { url }: FastifyRequest,
  bound: keyof typeof WHAT,
  identity: string,
  waitMs: number,
): never {
  limits.reached(bound, { client: identity });
  const error = rateLimited(`${limits.bounds[bound]} ${WHAT[bound]} a second are taken from one device or key`, waitMs);
  const isDevice = !identity.includes(':');
  if (isDevice && limits.mayTell(identity)) {
    rejects.keep(identity, { transport: 'http', where: url, body: NOTHING }, error).catch((failure: Error) => {
      log.warn(`a reject of ${identity} could not be kept: ${failure.message}`);
    });
  }
  throw error;
}

function rateLimited(message: string, waitMs: number): DownlinkError {
  return new DownlinkError('rate_limited', message, { retryAfterSeconds: Math.max(1, Math.ceil(waitMs / SECOND_MS)) });
}

function pausedLogins(seconds: number): DownlinkError {
  return new DownlinkError('rate_limited', 'too many wrong credentials came from this address; logins from it are paused', {
    retryAfterSeconds: seconds,
  });
}
