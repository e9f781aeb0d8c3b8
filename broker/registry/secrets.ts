import { createHmac, hash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { State } from '../store/state.ts';
import { valueAt } from '../store/values.ts';

/**
 * Tokens and keys: 256 random bits behind a prefix that tells their kind, shown once, kept as HMAC-SHA256 under a secret of this
 * installation. A digest finds its owner; the comparison after it takes the same time whatever is wrong.
 */
export const DEVICE_TOKEN_PREFIX = 'dld_';
export const OPERATOR_KEY_PREFIX = 'dlk_';

const SECRET_BYTES = 32;
const SEAL_BYTES = 16;
const DIGESTS_KEPT_MAX = 100_000;
const SECRET_KEY = 'meta/token-secret';
/** At the other end of the keys: all tokens are worth nothing without it, so that damage in one place must not take it. */
const SECRET_COPY_KEY = 'token-secret-copy';

export function newSecret(prefix: string): string {
  return prefix + randomBytes(SECRET_BYTES).toString('base64url');
}

export class SecretDigests {
  readonly #secret: Buffer;
  /** A secret of its own, made from the installation's. */
  readonly #sealPrefix: string;
  /** Digests worked out before, by the token's plain hash: 256 random bits are as safe behind one as behind the other. */
  readonly #digests = new Map<string, string>();

  private constructor(secret: Buffer) {
    this.#secret = secret;
    this.#sealPrefix = `${createHmac('sha256', secret).update('seal').digest('base64url')} `;
  }

  /** Reads the installation's secret, or makes it on the first start. */
  static async open(state: State): Promise<SecretDigests> {
    const kept = await valueAt<string>(state, SECRET_KEY);
    const copied = await valueAt<string>(state, SECRET_COPY_KEY);
    const secret = kept ?? copied ?? randomBytes(SECRET_BYTES).toString('base64url');
    // Each in a commit of its own: they are to lie apart on the disk.
    for (const [key, value] of [
      [SECRET_KEY, kept],
      [SECRET_COPY_KEY, copied],
    ] as const) {
      if (value === undefined) await state.commit([{ put: key, value: JSON.stringify(secret) }], []);
    }
    return new SecretDigests(Buffer.from(secret, 'base64url'));
  }

  digest(token: string): string {
    // A plain hash takes a quarter of the time, and a device's token comes with each of its requests.
    const short = hash('sha256', token, 'base64url');
    let digest = this.#digests.get(short);
    if (digest === undefined) {
      digest = createHmac('sha256', this.#secret).update(token).digest('base64url');
      if (this.#digests.size >= DIGESTS_KEPT_MAX) this.#digests.clear();
      this.#digests.set(short, digest);
    }
    return digest;
  }

  /**
   * A digest of text that goes out and comes back: nobody else can make it. The secret before the text does for that, in a third of an HMAC's time, as long as
   * not all of the hash is shown: a whole one could be continued.
   */
  seal(text: string): Buffer {
    // As text it takes half as long as in a buffer of its own.
    return Buffer.from(hash('sha256', this.#sealPrefix + text, 'hex').slice(0, 2 * SEAL_BYTES), 'hex');
  }

  /** Constant in time for digests of one length. */
  matches(token: string, digest: string): boolean {
    const given = Buffer.from(this.digest(token));
    const kept = Buffer.from(digest);
    return given.length === kept.length && timingSafeEqual(given, kept);
  }
}
