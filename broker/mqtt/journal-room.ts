import type { Journal } from '../store/state.ts';

/**
 * Waiting for room in a full journal. All who wait are told together, once a tenth of the journal is free, so that they do not come back
 * for every record that History takes.
 */
const LOOK_EVERY_MS = 100;
const FULL_FRACTION = 0.9;

export class JournalRoom {
  readonly #journal: Pick<Journal, 'bytes' | 'bytesMax'>;
  readonly #waiting = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;

  constructor(journal: Pick<Journal, 'bytes' | 'bytesMax'>) {
    this.#journal = journal;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** True once there is room; false when `gone` comes first. */
  async wait(gone: AbortSignal): Promise<boolean> {
    if (gone.aborted) return false;
    this.#timer ??= setInterval(() => this.#look(), LOOK_EVERY_MS).unref();
    await new Promise<void>((resolve) => {
      const done = (): void => {
        gone.removeEventListener('abort', done);
        this.#waiting.delete(done);
        resolve();
      };
      gone.addEventListener('abort', done);
      this.#waiting.add(done);
    });
    return !gone.aborted;
  }

  #look(): void {
    if (this.#waiting.size > 0 && this.#journal.bytes > this.#journal.bytesMax * FULL_FRACTION) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    for (const told of [...this.#waiting]) told();
  }
}
