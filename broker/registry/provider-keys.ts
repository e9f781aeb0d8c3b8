import { createLocalJWKSet, errors, type JSONWebKeySet, type JWTVerifyGetKey } from 'jose';
import { HOUR_MS, MINUTE_MS, SECOND_MS, type Clock } from '../../devices/clock.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';

/**
 * The identity provider's public keys, found by OpenID Connect discovery and kept. They are fetched when a token first asks for them, again when a
 * token names a key that is not among them, and when they are old; never more than one fetch at a time, and after each a pause, so that made-up key
 * ids and a provider that is away cost next to nothing. Keys that were had before are good for a day without the provider.
 */
const FRESH_MS = 10 * MINUTE_MS;
const STALE_MS_MAX = 24 * HOUR_MS;
const PAUSE_MS = 30 * SECOND_MS;
const PAUSE_AFTER_FAILURE_MS = 5 * SECOND_MS;
const FETCH_MS_MAX = 5 * SECOND_MS;
const DOCUMENT_BYTES_MAX = 256 * 1024;

type Had = { readonly keyOf: JWTVerifyGetKey; readonly at: number };

export class ProviderKeys {
  readonly #issuer: string;
  readonly #clock: Clock;
  #had: Had | undefined;
  #fetching: Promise<void> | undefined;
  #pauseUntil = Number.NEGATIVE_INFINITY;
  #failure = 'not asked yet';

  constructor(issuer: string, clock: Clock) {
    this.#issuer = issuer;
    this.#clock = clock;
  }

  /** For jose's `jwtVerify`. Throws `identity_provider_unavailable` when there are no keys to look in. */
  readonly keyOf: JWTVerifyGetKey = async (header, token) => {
    const { at = Number.NEGATIVE_INFINITY } = this.#had ?? {};
    const age = this.#clock.now() - at;
    if (age > STALE_MS_MAX) await this.#fetch();
    // Old ones do meanwhile.
    else if (age > FRESH_MS) void this.#fetch();
    try {
      return await this.#keys()(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      await this.#fetch();
      return this.#keys()(header, token);
    }
  };

  #keys(): JWTVerifyGetKey {
    if (this.#had !== undefined && this.#clock.now() - this.#had.at <= STALE_MS_MAX) return this.#had.keyOf;
    throw new DownlinkError('identity_provider_unavailable', `the identity provider's keys cannot be had: ${this.#failure}`, {
      retryAfterSeconds: PAUSE_AFTER_FAILURE_MS / SECOND_MS,
    });
  }

  /** Fetches the keys, unless that was just tried. */
  #fetch(): Promise<void> {
    if (this.#fetching !== undefined) return this.#fetching;
    const now = this.#clock.now();
    // A clock that was set back does not make the pause longer.
    if (now < this.#pauseUntil && this.#pauseUntil - now <= PAUSE_MS) return Promise.resolve();
    this.#fetching = this.#load().finally(() => {
      this.#fetching = undefined;
    });
    return this.#fetching;
  }

  async #load(): Promise<void> {
    try {
      const about = (await fetchJson(`${this.#issuer.replace(/\/$/, '')}/.well-known/openid-configuration`)) as Record<
        string,
        unknown
      >;
      if (about['issuer'] !== this.#issuer) throw new Error('its discovery document names another issuer');
      const keysUrl = about['jwks_uri'];
      if (typeof keysUrl !== 'string' || !isAsSafe(keysUrl, this.#issuer)) throw new Error('its jwks_uri is no https URL');
      const keyOf = createLocalJWKSet((await fetchJson(keysUrl)) as JSONWebKeySet);
      this.#had = { keyOf, at: this.#clock.now() };
      this.#pauseUntil = this.#clock.now() + PAUSE_MS;
    } catch (error) {
      this.#failure = reasonOf(error as Error);
      this.#pauseUntil = this.#clock.now() + PAUSE_AFTER_FAILURE_MS;
    }
  }
}

async function fetchJson(url: string): Promise<unknown> {
  const response = await fetch(url, {
    headers: { accept: 'application/json' },
    redirect: 'error',
    signal: AbortSignal.timeout(FETCH_MS_MAX),
  });
  if (!response.ok || response.body === null) {
    await response.body?.cancel();
    throw new Error(`it answers ${response.status}`);
  }
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body) {
    bytes += (chunk as Uint8Array).length;
    if (bytes > DOCUMENT_BYTES_MAX) throw new Error(`its answer is larger than ${DOCUMENT_BYTES_MAX} bytes`);
    chunks.push(chunk as Uint8Array);
  }
  return JSON.parse(Buffer.concat(chunks).toString('utf8')) as unknown;
}

function isAsSafe(url: string, issuer: string): boolean {
  if (!URL.canParse(url)) return false;
  const { protocol } = new URL(url);
  return protocol === 'https:' || (protocol === 'http:' && issuer.startsWith('http:'));
}

/** For an operator's eyes: what went wrong with the connection, without addresses' credentials or bodies. */
function reasonOf(error: Error): string {
  const { cause } = error as { cause?: { code?: unknown } };
  if (error.name === 'TimeoutError') return 'it does not answer';
  if (typeof cause?.code === 'string') return cause.code;
  return error instanceof SyntaxError ? 'its answer is not JSON' : error.message;
}
