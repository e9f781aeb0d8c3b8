import type { Role } from './operator-keys.ts';

/** Who acts over the operators' API: by a key, or by a token of the identity provider. */
export type Operator = {
  readonly kind: 'key' | 'oidc';
  /** The key's id, or `oidc:` and the token's subject. */
  readonly id: string;
  readonly name: string;
  readonly role: Role;
  /** When the credential ends by itself, epoch milliseconds. */
  readonly expiresAt?: number;
};
