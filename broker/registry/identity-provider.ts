import { errors, jwtVerify, type JWTPayload } from 'jose';
import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { ROLES, type Role } from './operator-keys.ts';
import type { Operator } from './operator.ts';
import { ProviderKeys } from './provider-keys.ts';

/**
 * JSON Web Tokens (RFC 7519) of an OpenID Connect provider as operators' credentials. A token counts when it is signed with one of the provider's
 * keys by a public-key algorithm, names it as issuer and us as audience, is within its time, and has a role that we know.
 */
const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'];
export const TOKEN_CHARS_MAX = 8_192;
/** Two clocks are never the same. */
const TOLERANCE_SECONDS = 30;
const NAME_CHARS_MAX = 200;
const SUBJECT = /^[^\p{Cc}\p{Surrogate}\u2028\u2029]{1,256}$/u;
const CONTROLS = /[\p{Cc}\p{Surrogate}\u2028\u2029]/gu;
const FORM = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/;

export type IdentityProviderOptions = { readonly issuer: string; readonly audience: string; readonly roleClaim: string };

export class IdentityProvider {
  readonly #options: IdentityProviderOptions;
  readonly #clock: Clock;
  readonly #keys: ProviderKeys;

  /** Asks the provider nothing yet: a start does not wait for it. */
  constructor(options: IdentityProviderOptions, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
    this.#keys = new ProviderKeys(options.issuer, clock);
  }

  /** Looks like a token; anything else is no work for the provider. */
  isToken(text: string): boolean {
    return text.length <= TOKEN_CHARS_MAX && FORM.test(text);
  }

  /** Throws `unauthorized` with the reason, `forbidden` without a role, `identity_provider_unavailable` when its keys cannot be had. */
  async verify(token: string): Promise<Operator> {
    const { issuer, audience, roleClaim } = this.#options;
    let payload: JWTPayload;
    try {
      ({ payload } = await jwtVerify(token, this.#keys.keyOf, {
        issuer,
        audience,
        algorithms: ALGORITHMS,
        requiredClaims: ['sub', 'exp'],
        clockTolerance: TOLERANCE_SECONDS,
        currentDate: new Date(this.#clock.now()),
      }));
    } catch (error) {
      if (error instanceof DownlinkError) throw error;
      throw new DownlinkError('unauthorized', `the token is refused: ${reasonOf(error)}`);
    }
    const { sub = '', exp = 0 } = payload;
    if (!SUBJECT.test(sub)) {
      throw new DownlinkError(
        'unauthorized',
        'the token is refused: its subject is empty, too long, or has control characters or what is no character',
      );
    }
    const role = roleOf(payload, roleClaim);
    if (role === undefined) {
      throw new DownlinkError('forbidden', `the token's claim ${roleClaim} has none of the roles ${ROLES.join(', ')}`);
    }
    const expiresAt = (exp + TOLERANCE_SECONDS) * SECOND_MS;
    return { kind: 'oidc', id: `oidc:${sub}`, name: nameOf(payload, sub), role, expiresAt };
  }
}

/** The highest role that the claim has: text, text with spaces between, or a list. */
function roleOf(payload: JWTPayload, path: string): Role | undefined {
  const claim = claimAt(payload, path);
  const given = typeof claim === 'string' ? claim.split(' ') : Array.isArray(claim) ? claim : [];
  return ROLES.findLast((role) => given.includes(role));
}

/** A claim may have dots in its own name, as a URL does: that one comes first. */
function claimAt(payload: JWTPayload, path: string): unknown {
  if (Object.hasOwn(payload, path)) return payload[path];
  let value: unknown = payload;
  for (const name of path.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

function nameOf(payload: JWTPayload, sub: string): string {
  const name = [payload['name'], payload['preferred_username'], payload['email']].find(
    (claim) => typeof claim === 'string' && claim !== '',
  );
  return (typeof name === 'string' ? name : sub).slice(0, NAME_CHARS_MAX).replace(CONTROLS, ' ');
}

/** In our words: jose's may quote the token. */
function reasonOf(error: unknown): string {
  if (error instanceof errors.JWTExpired) return 'it has expired';
  if (error instanceof errors.JWTClaimValidationFailed) {
    const { claim, reason } = error;
    if (claim === 'nbf') return 'it is not valid yet';
    return reason === 'missing' ? `it has no claim ${claim}` : `its claim ${claim} is not the one expected`;
  }
  if (error instanceof errors.JOSEAlgNotAllowed || error instanceof errors.JOSENotSupported)
    return 'its algorithm is not one that is taken';
  if (error instanceof errors.JWKSMultipleMatchingKeys) return "it does not say which of the provider's keys signed it";
  if (error instanceof errors.JWKSNoMatchingKey) return "its key is none of the provider's";
  if (error instanceof errors.JWSSignatureVerificationFailed) return 'its signature is wrong';
  return 'it is malformed';
}
