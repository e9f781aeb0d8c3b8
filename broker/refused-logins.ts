import { MINUTE_MS } from '../devices/clock.ts';
import type { Audit } from './audit.ts';

/**
 * Refused logins for the audit log, counted by address and told once a minute: however many come, what they leave behind is bounded. What was tried
 * is not kept, since it may be a secret with one letter wrong.
 */
export type Refusal = {
  readonly transport: 'http' | 'mqtt';
  /** The address it came from. */
  readonly from: string;
};

type Counted = Refusal & { count: number };

/** Addresses told of a minute; the others are counted together. */
const ADDRESSES_MAX = 100;
const OTHERS = 'others';

export class RefusedLogins {
  readonly #audit: Audit;
  readonly #counted = new Map<string, Counted>();
  #timer: NodeJS.Timeout | undefined;

  constructor(audit: Audit) {
    this.#audit = audit;
  }

  count({ transport, from }: Refusal): void {
    let place = `${transport} ${from}`;
    let counted = this.#counted.get(place);
    if (counted === undefined) {
      if (this.#counted.size >= ADDRESSES_MAX) place = `${transport} ${OTHERS}`;
      counted = this.#counted.get(place) ?? { transport, from: place.endsWith(` ${OTHERS}`) ? OTHERS : from, count: 0 };
      this.#counted.set(place, counted);
    }
    counted.count += 1;
    this.#timer ??= setTimeout(() => void this.flush().catch(() => {}), MINUTE_MS).unref();
  }

  /** Writes what was counted. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const counted = [...this.#counted.values()];
    this.#counted.clear();
    await Promise.all(
      counted.map(({ transport, from, count }) =>
        this.#audit.write(
          this.#audit.entryOf({
            actor: { kind: 'nobody', id: '', name: '' },
            action: 'login.refused',
            outcome: 'refused',
            from,
            details: { transport, count },
          }),
        ),
      ),
    );
  }
}
