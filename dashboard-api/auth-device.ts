import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { clientCertificateOf } from '../broker/tls/client-certificate.ts';
import type { Device } from '../devices/device.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';
import { countRefusal } from './auth-operator.ts';
import { ConnectionTokens } from './connection-tokens.ts';
import { admit as admitRequest } from './rate-bounds.ts';
import { identify, type IdentityParts } from './identify.ts';

/** Lets devices in, by Bearer token or Basic id and token, and remembers which one it is. */
declare module 'fastify' {
  interface FastifyRequest {
    /** Set by deviceAuth; undefined where it did not let the request in. */
    device: Device | undefined;
  }
}

/** An `onRequest` hook. Refuses with `unauthorized`, or `forbidden` for an operator's key. */
export function deviceAuth(
  parts: IdentityParts & Pick<ApiParts, 'deviceLogin' | 'metrics' | 'refusedLogins' | 'limits' | 'rejects' | 'log'>,
) {
  const tokens = new ConnectionTokens(parts.registry);
  return (request: FastifyRequest, _: FastifyReply, done: (error?: Error) => void): void => {
    try {
      const device = deviceOfRequest(parts, tokens, request.raw);
      admitRequest(parts, request, device.id);
      request.device = device;
      done();
    } catch (error) {
      const refusal = countRefusal(parts, request, error as Error);
      if (refusal instanceof DownlinkError) parts.metrics.rejects.inc({ transport: 'http', code: refusal.code });
      done(refusal);
    }
  };
}

function deviceOfRequest(
  parts: IdentityParts & Pick<ApiParts, 'deviceLogin'>,
  tokens: ConnectionTokens,
  { socket, headers: { authorization } }: IncomingMessage,
): Device {
  const { deviceLogin } = parts;
  const certificate = clientCertificateOf(socket);
  if (authorization === undefined && certificate !== undefined && deviceLogin.takesCertificates) {
    return deviceLogin.admit(undefined, certificate);
  }
  const known = authorization === undefined ? undefined : tokens.deviceOf(socket, authorization);
  if (known !== undefined) return deviceLogin.admit(known, certificate);
  const caller = identify(parts, authorization);
  if (!('device' in caller)) throw new DownlinkError('forbidden', 'this route is for devices; an operator key does not open it');
  if (authorization !== undefined) tokens.remember(socket, authorization, caller.device);
  return deviceLogin.admit(caller.device, certificate);
}

/** The device whose request this is, on a route behind deviceAuth. */
export function deviceOf(request: FastifyRequest): Device {
  const { device } = request;
  if (device === undefined) throw new Error('bug: the route has no deviceAuth');
  return device;
}
