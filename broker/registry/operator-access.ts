import type { Clock } from '../../devices/clock.ts';
import { Deadlines } from '../deadlines.ts';
import type { OperatorKeys } from './operator-keys.ts';
import type { Operator } from './operator.ts';

/**
 * Tells whoever holds something open for an operator (a live stream, a request that waits) when the credential that opened it is gone: a key that was
 * revoked, expired or given another role, a token of the identity provider whose time is over. At once for the first, within a second for a time.
 */
type Watch = { readonly operatorId: string; readonly onGone: (why: string) => void };

const WORDS = {
  revoked: 'the key was revoked',
  expired: 'the key has expired',
  changed: 'the key was given other rights',
} as const;

export class OperatorAccess {
  readonly #watches = new Map<string, Watch>();
  readonly #byOperator = new Map<string, Set<string>>();
  readonly #deadlines: Deadlines;
  #lastId = 0;

  constructor(keys: OperatorKeys, clock: Clock) {
    this.#deadlines = new Deadlines(clock, (id) => this.#end(id, 'the token has expired'));
    keys.onGone((keyId, why) => {
      for (const id of [...(this.#byOperator.get(keyId) ?? [])]) this.#end(id, WORDS[why]);
    });
  }

  /** Calls `onGone` once, unless the watch is given up before by calling what this returns. */
  watch({ kind, id: operatorId, expiresAt }: Operator, onGone: (why: string) => void): () => void {
    this.#lastId += 1;
    const id = String(this.#lastId);
    this.#watches.set(id, { operatorId, onGone });
    const watches = this.#byOperator.get(operatorId) ?? new Set<string>();
    this.#byOperator.set(operatorId, watches.add(id));
    // A key's own expiry may be moved, and is the keys' to tell.
    if (kind === 'oidc') this.#deadlines.set(id, expiresAt);
    return () => void this.#take(id);
  }

  close(): void {
    this.#deadlines.close();
    this.#watches.clear();
    this.#byOperator.clear();
  }

  #end(id: string, why: string): void {
    this.#take(id)?.onGone(why);
  }

  #take(id: string): Watch | undefined {
    const watch = this.#watches.get(id);
    if (watch === undefined) return undefined;
    this.#watches.delete(id);
    this.#deadlines.set(id, undefined);
    const watches = this.#byOperator.get(watch.operatorId);
    watches?.delete(id);
    if (watches?.size === 0) this.#byOperator.delete(watch.operatorId);
    return watch;
  }
}
