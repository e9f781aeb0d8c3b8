/** The terminal: one block that is drawn over on a TTY, plain lines now and then elsewhere. */
export type Output = {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
};

export class Screen {
  readonly #out: Output;
  #lines = 0;

  constructor(out: Output) {
    this.#out = out;
  }

  get isLive(): boolean {
    return this.#out.isTTY === true;
  }

  /** A line that stays. */
  say(line: string): void {
    this.#erase();
    this.#out.write(`${line}\n`);
  }

  /** Replaces the block that was shown before. Only on a TTY. */
  show(lines: readonly string[]): void {
    if (!this.isLive) return;
    this.#erase();
    // A line that wraps would be counted wrong.
    const width = (this.#out.columns ?? 80) - 1;
    this.#out.write(lines.map((line) => `${line.slice(0, width)}\n`).join(''));
    this.#lines = lines.length;
  }

  /** Leaves what is shown as it is. */
  keep(): void {
    this.#lines = 0;
  }

  #erase(): void {
    if (this.#lines > 0) this.#out.write(`\u001b[${this.#lines}A\u001b[0J`);
    this.#lines = 0;
  }
}
