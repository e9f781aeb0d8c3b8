import { MINUTE_MS, SECOND_MS } from '../../devices/clock.ts';
import type { Bounds } from '../bounds.ts';
import { addressKey } from './addresses.ts';
import type { BoundEvents } from './bound-events.ts';

/**
 * Wrong credentials by address. Of an address each is in one of these modes:
 *
 *   watched  wrong ones are counted, and forgotten at the rate that is allowed
 *   paused   nobody is let in from there, right or wrong, but those who were let in from there before; wrong ones are not counted
 *
 * Each pause is twice as long as the one before, and it takes fewer wrong credentials to begin the next one. After ten times the longest pause
 * without another they begin anew.
 */
type Watched = {
  wrong: number;
  countedAt: number;
  pauses: number;
  pausedUntil: number;
};

const ADDRESSES_MAX = 100_000;
const WELCOME_MAX = 1_000_000;
const FORGIVEN_AFTER_PAUSES = 10;
/** Of the wrong credentials of a minute: how many may come between two pauses. One device with an old token never gets there by itself. */
const SHARE_AFTER_PAUSE = 0.1;

export class LoginGuard {
  readonly #bounds: Bounds;
  readonly #events: BoundEvents;
  readonly #now: () => number;
  readonly #watched = new Map<string, Watched>();
  /** From where each was last let in. */
  readonly #welcome = new Map<string, string>();

  /** `now`: milliseconds by a clock that does not go back. */
  constructor(bounds: Bounds, events: BoundEvents, now: () => number) {
    this.#bounds = bounds;
    this.#events = events;
    this.#now = now;
  }

  /** The credential is good. 0: let it in; else the seconds after which it may be tried again. */
  right(ip: string, identity: string): number {
    if (this.#welcome.get(identity) === ip) return 0;
    const address = addressKey(ip);
    if (this.#watched.size > 0) {
      const seconds = this.#pauseSeconds(this.#watched.get(address));
      if (seconds > 0) return this.#refuse(ip, seconds);
    }
    if (this.#welcome.size >= WELCOME_MAX) forgetOldest(this.#welcome);
    this.#welcome.set(identity, ip);
    return 0;
  }

  /** The credential is wrong. 0: say so; else logins are paused, for so many seconds, and nothing is to be said of the credential. */
  wrong(ip: string): number {
    const address = addressKey(ip);
    const now = this.#now();
    const known = this.#watched.get(address);
    const seconds = this.#pauseSeconds(known);
    if (seconds > 0) return this.#refuse(ip, seconds);
    if (known === undefined && this.#watched.size >= ADDRESSES_MAX) forgetOldest(this.#watched);
    const perMinute = this.#bounds.wrong_credentials;
    const watched = known ?? { wrong: 0, countedAt: now, pauses: 0, pausedUntil: 0 };
    this.#watched.set(address, watched);
    watched.wrong = Math.max(0, watched.wrong - ((now - watched.countedAt) / MINUTE_MS) * perMinute) + 1;
    watched.countedAt = now;
    const longestMs = this.#bounds.login_pause * SECOND_MS;
    if (now - watched.pausedUntil > FORGIVEN_AFTER_PAUSES * longestMs) watched.pauses = 0;
    // As soon as there is no room for a whole one more: those counted have begun to be forgotten.
    if (watched.wrong <= perMinute - 1) return 0;
    const pauseMs = SECOND_MS * 2 ** watched.pauses;
    watched.pausedUntil = now + Math.min(longestMs, pauseMs);
    if (pauseMs > longestMs) this.#events.reached('login_pause', { address: ip });
    watched.pauses += 1;
    watched.wrong = perMinute * (1 - SHARE_AFTER_PAUSE);
    watched.countedAt = watched.pausedUntil;
    return 0;
  }

  #pauseSeconds(watched: Watched | undefined): number {
    return watched === undefined ? 0 : Math.max(0, Math.ceil((watched.pausedUntil - this.#now()) / SECOND_MS));
  }

  #refuse(address: string, seconds: number): number {
    this.#events.reached('wrong_credentials', { address });
    return seconds;
  }
}

function forgetOldest(map: Map<string, unknown>): void {
  const [oldest] = map.keys();
  if (oldest !== undefined) map.delete(oldest);
}
