import type { OperatorKey } from '../broker/registry/operator-keys.ts';
import { DEVICE_TOKEN_PREFIX } from '../broker/registry/secrets.ts';
import type { Device } from '../devices/device.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';

/** Who sent a request: an operator by its key, or a device by its token. */
export type Caller = { readonly operator: OperatorKey } | { readonly device: Device };

const BEARER = /^bearer +([\x21-\x7e]{1,512})$/i;
const BASIC = /^basic +([A-Za-z0-9+/]{1,512}={0,2})$/i;

/** Reads `Authorization: Bearer {key or token}`, or Basic `{id}:{token}` of a device. Throws `unauthorized`. */
export function identify({ keys, registry }: Pick<ApiParts, 'keys' | 'registry'>, authorization: string | undefined): Caller {
  if (authorization === undefined)
    throw new DownlinkError('unauthorized', 'send Authorization: Bearer and a key or device token');
  const bearer = BEARER.exec(authorization)?.[1];
  if (bearer !== undefined) {
    const device = bearer.startsWith(DEVICE_TOKEN_PREFIX) ? registry.deviceOfToken(bearer) : undefined;
    if (device !== undefined) return { device };
    const operator = keys.find(bearer);
    if (operator !== undefined) return { operator };
    throw new DownlinkError('unauthorized', 'this key or token is unknown or revoked');
  }
  const basic = BASIC.exec(authorization)?.[1];
  if (basic === undefined) throw new DownlinkError('unauthorized', 'Authorization is neither Bearer nor Basic, or malformed');
  const [id = '', ...token] = Buffer.from(basic, 'base64').toString('utf8').split(':');
  const device = registry.isTokenOf(id, token.join(':')) ? registry.find(id) : undefined;
  if (device === undefined) throw new DownlinkError('unauthorized', 'no device has this id and token');
  return { device };
}
