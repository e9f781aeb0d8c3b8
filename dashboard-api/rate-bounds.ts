import type { FastifyReply, FastifyRequest } from 'fastify';
import type { BoundName } from '../broker/bounds.ts';
import type { Limits } from '../broker/limits/limits.ts';
import { SECOND_MS } from '../devices/clock.ts';
import { DownlinkError } from '../devices/downlink-error.ts';

/** Requests under the bounds: logins by address, requests and octets a second by who sends them. Beyond them is 429 with `Retry-After`. */
type Parts = { readonly limits: Limits };

/**
 * A credential is good: counts the request. `identity` is the device's id, or `key:` and the key's. Throws `rate_limited`, also where logins from its address are
 * paused and it was never let in from there.
 */
export function admit({ limits }: Parts, request: FastifyRequest, identity: string): void {
  const pauseSeconds = limits.logins.right(request.ip, identity);
  if (pauseSeconds > 0) throw pausedLogins(pauseSeconds);
  const waitMs = limits.requests.tryTake(identity);
  if (waitMs > 0) refuse(limits, 'requests_per_second', identity, waitMs, `requests a second`);
  const { headers } = request;
  const { 'content-length': length } = headers;
  if (length === undefined && headers['transfer-encoding'] === undefined) return;
  // A body of unknown length counts as the longest.
  const bytesWaitMs = limits.bytes.tryTake(identity, length === undefined ? limits.bounds.body_bytes : Number(length));
  if (bytesWaitMs > 0) refuse(limits, 'bytes_per_second', identity, bytesWaitMs, `octets a second`);
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

function refuse(
  limits: Limits,
  bound: BoundName & ('requests_per_second' | 'bytes_per_second'),
  identity: string,
  waitMs: number,
  what: string,
): never {
  limits.reached(bound, { client: identity });
  throw rateLimited(`${limits.bounds[bound]} ${what} are taken from one device or key`, waitMs);
}

function rateLimited(message: string, waitMs: number): DownlinkError {
  return new DownlinkError('rate_limited', message, { retryAfterSeconds: Math.max(1, Math.ceil(waitMs / SECOND_MS)) });
}

function pausedLogins(seconds: number): DownlinkError {
  return new DownlinkError('rate_limited', 'too many wrong credentials came from this address; logins from it are paused', {
    retryAfterSeconds: seconds,
  });
}
