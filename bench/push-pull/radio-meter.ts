/**
 * How long a device's radio is on, by a model with three parameters: waking it takes `rampMs`; after the last octet it stays on for
 * `tailMs`, since the network keeps the channel; and while the device only waits for something to be pushed, it listens
 * for a share `listenShare` of the time (paging, DRX). A sleeping device does not listen.
 */
export type Radio = {
  readonly rampMs: number;
  readonly tailMs: number;
  /** 0..1 */
  readonly listenShare: number;
};

export class RadioMeter {
  readonly #radio: Radio;
  readonly #fromMs: number;
  #onMs = 0;
  #onUntilMs = Number.NEGATIVE_INFINITY;

  /** What happens before `fromMs` does not count. All times are of one clock, in the order in which they are given. */
  constructor(radio: Radio, fromMs: number) {
    this.#radio = radio;
    this.#fromMs = fromMs;
  }

  /** Octets passed, either way. */
  burst(atMs: number): void {
    const { rampMs, tailMs } = this.#radio;
    const beginsMs = Math.max(atMs - rampMs, this.#onUntilMs);
    const untilMs = atMs + tailMs;
    this.#onMs += Math.max(0, untilMs - Math.max(beginsMs, this.#fromMs));
    this.#onUntilMs = untilMs;
  }

  /** Milliseconds on until `atMs`, which is not before the last burst. `listens`: it waited for pushes whenever nothing passed. */
  onMs(atMs: number, listens: boolean): number {
    const activeMs = this.#onMs - Math.max(0, this.#onUntilMs - Math.max(atMs, this.#fromMs));
    const quietMs = Math.max(0, atMs - this.#fromMs - activeMs);
    return activeMs + (listens ? quietMs * this.#radio.listenShare : 0);
  }
}
