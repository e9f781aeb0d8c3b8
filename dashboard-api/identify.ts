import type { FleetKey } from '../broker/registry/fleet-keys.ts';
import { FLEET_KEY_PREFIX } from '../broker/registry/fleet-keys.ts';
import type { Operator } from '../broker/registry/operator.ts';
import { DEVICE_TOKEN_PREFIX } from '../broker/registry/secrets.ts';
import type { Device } from '../devices/device.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';

/**
 * Who sent a request: an operator by its key, a device by its token, a new device by a fleet key; or perhaps an operator by a token of the
 * identity provider, which has yet to be verified.
 */
export type Caller =
  | { readonly operator: Operator }
  | { readonly device: Device }
  | { readonly fleetKey: FleetKey }
  | { readonly unverifiedToken: string };

const BEARER = /^bearer +([\x21-\x7e]{1,8192})$/i;
const BASIC = /^basic +([A-Za-z0-9+/]{1,512}={0,2})$/i;
/** Of keys and tokens of ours. */
const SECRET_CHARS_MAX = 512;

export type IdentityParts = Pick<ApiParts, 'keys' | 'registry' | 'fleetKeys' | 'identityProvider'>;

/** Reads `Authorization: Bearer {key or token}`, or Basic `{id}:{token}` of a device. Throws `unauthorized`. */
export function identify(parts: IdentityParts, authorization: string | undefined): Caller {
  if (authorization === undefined)
    throw new DownlinkError('unauthorized', 'send Authorization: Bearer and a key or device token');
  const bearer = BEARER.exec(authorization)?.[1];
  if (bearer !== undefined) return bearerOf(parts, bearer);
  const basic = BASIC.exec(authorization)?.[1];
  if (basic === undefined) throw new DownlinkError('unauthorized', 'Authorization is neither Bearer nor Basic, or malformed');
  const [id = '', ...token] = Buffer.from(basic, 'base64').toString('utf8').split(':');
  const device = parts.registry.isTokenOf(id, token.join(':')) ? parts.registry.find(id) : undefined;
  if (device === undefined) throw new DownlinkError('unauthorized', 'no device has this id and token');
  return { device };
}

function bearerOf({ keys, registry, fleetKeys, identityProvider }: IdentityParts, bearer: string): Caller {
  if (bearer.length <= SECRET_CHARS_MAX) {
    const device = bearer.startsWith(DEVICE_TOKEN_PREFIX) ? registry.deviceOfToken(bearer) : undefined;
    if (device !== undefined) return { device };
    const key = keys.find(bearer);
    if (key !== undefined) return { operator: { kind: 'key', id: key.id, name: key.name, role: key.role } };
    const fleetKey = bearer.startsWith(FLEET_KEY_PREFIX) ? fleetKeys.find(bearer) : undefined;
    if (fleetKey !== undefined) return { fleetKey };
  }
  if (identityProvider?.isToken(bearer) === true) return { unverifiedToken: bearer };
  throw new DownlinkError('unauthorized', 'this key or token is unknown, expired or revoked');
}
