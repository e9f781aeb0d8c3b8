import { backoffMs } from './backoff.ts';

/** What became of a try to send all that waits. */
export type Sent = { readonly isAll: boolean; /** The server's wish. */ readonly retryAfterMs?: number | undefined };

/** Sends what waits for a device that is always on: at once, and while the server cannot be had again and again with back-off, however much is added. */
export class Steadily {
  readonly #send: () => Promise<Sent>;
  #mode: 'idle' | 'sending' | 'resting' | 'paused' = 'paused';
  #isPoked = false;
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(send: () => Promise<Sent>) {
    this.#send = send;
  }

  resume(): void {
    if (this.#mode === 'paused') this.#mode = 'idle';
    this.poke();
  }

  /** Something waits. */
  poke(): void {
    if (this.#mode === 'idle') void this.#run();
    else if (this.#mode === 'sending') this.#isPoked = true;
  }

  pause(): void {
    clearTimeout(this.#timer);
    this.#mode = 'paused';
  }

  async #run(): Promise<void> {
    this.#mode = 'sending';
    let sent: Sent;
    do {
      this.#isPoked = false;
      sent = await this.#send();
    } while (sent.isAll && this.#isPoked && this.#isSending());
    if (!this.#isSending()) return;
    this.#failures = sent.isAll ? 0 : this.#failures + 1;
    this.#mode = sent.isAll ? 'idle' : 'resting';
    if (sent.isAll) return;
    const ms = Math.min(sent.retryAfterMs ?? backoffMs(this.#failures - 1, REST), REST.maxMs);
    this.#timer = setTimeout(() => {
      this.#mode = 'idle';
      this.poke();
    }, ms);
  }

  #isSending(): boolean {
    return this.#mode === 'sending';
  }
}

const REST = { minMs: 250, maxMs: 60_000 };
