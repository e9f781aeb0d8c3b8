import { Type } from 'typebox';
import { SECOND_MS } from '../devices/clock.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { msOf } from './times.ts';

/** When a key ends, as requests say it: at a time, or after so many seconds. */
const EXPIRES_SECONDS_MAX = 315_360_000;

export const expiresAtSchema = Type.Unsafe<string | number>({
  type: ['string', 'integer'],
  maxLength: 64,
  description: 'Refused from then on; RFC 3339 or epoch milliseconds',
});
export const expiresInSecondsSchema = Type.Integer({
  minimum: 1,
  maximum: EXPIRES_SECONDS_MAX,
  description: 'In place of `expiresAt`',
});

/** Epoch milliseconds; undefined when neither is given, null when `expiresAt` is. Throws `invalid_request`. */
export function expiryOf<At extends string | number | null>(
  { expiresAt, expiresInSeconds }: { readonly expiresAt?: At; readonly expiresInSeconds?: number },
  now: number,
): number | Extract<At, null> | undefined {
  if (expiresInSeconds !== undefined) {
    if (expiresAt === undefined) return now + expiresInSeconds * SECOND_MS;
    throw new DownlinkError('invalid_request', 'expiresAt and expiresInSeconds exclude each other', { at: 'expiresInSeconds' });
  }
  if (typeof expiresAt === 'string' || typeof expiresAt === 'number') return msOf(expiresAt, 'expiresAt');
  return expiresAt as Extract<At, null> | undefined;
}
