/**
 * Calls callbacks in the order in which their slots were taken, whatever order the answers come in. At most `activeMax` pieces of work are under
 * way; further ones wait, which in the end keeps the socket from being read.
 */
type Slot<T> = { work: () => Promise<T>; reply: (answer: T) => void; answer?: { value: T } };

export class OrderedReplies<T> {
  readonly #activeMax: number;
  readonly #slots: Slot<T>[] = [];
  #started = 0;

  constructor(activeMax: number) {
    this.#activeMax = activeMax;
  }

  get outstanding(): number {
    return this.#slots.length;
  }

  /** `work` must not reject. */
  run(work: () => Promise<T>, reply: (answer: T) => void): void {
    this.#slots.push({ work, reply });
    this.#startNext();
  }

  #startNext(): void {
    while (this.#started < this.#slots.length && this.#started < this.#activeMax) {
      const slot = this.#slots[this.#started];
      if (slot === undefined) return;
      this.#started += 1;
      void slot.work().then((value) => {
        slot.answer = { value };
        this.#replyInOrder();
      });
    }
  }

  #replyInOrder(): void {
    let answered = 0;
    for (const slot of this.#slots) {
      if (slot.answer === undefined) break;
      answered += 1;
    }
    if (answered === 0) return;
    const ready = this.#slots.splice(0, answered);
    this.#started -= answered;
    for (const { reply, answer } of ready) if (answer !== undefined) reply(answer.value);
    this.#startNext();
  }
}
