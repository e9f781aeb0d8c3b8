/**
 * Calls callbacks in the order in which their slots were taken, whatever order the answers come in. At most `activeMax` pieces of work are under
 * way; further ones wait, which in the end keeps the socket from being read.
 */
type Slot<T> = {
  readonly work: () => Promise<T>;
  readonly reply: (answer: T) => void;
  answer: T | undefined;
  isAnswered: boolean;
};

/** Slots that are done with go in one piece. */
const REPLIED_KEPT_MAX = 1_024;

export class OrderedReplies<T> {
  readonly #activeMax: number;
  /** Slots from `#first` on are yet to be replied to; those from `#next` on are yet to be started. */
  readonly #slots: Slot<T>[] = [];
  #first = 0;
  #next = 0;
  #slotsTaken = 0;

  constructor(activeMax: number) {
    this.#activeMax = activeMax;
  }

  get outstanding(): number {
    return this.#slots.length - this.#first;
  }

  /** How many slots have been taken in all. */
  get slots(): number {
    return this.#slotsTaken;
  }

  /** How many pieces of work are yet to be started. */
  get waiting(): number {
    return this.#slots.length - this.#next;
  }

  /** `work` must not reject. */
  run(work: () => Promise<T>, reply: (answer: T) => void): void {
    this.#slotsTaken += 1;
    this.#slots.push({ work, reply, answer: undefined, isAnswered: false });
    this.#startNext();
  }

  #startNext(): void {
    while (this.#next < this.#slots.length && this.#next - this.#first < this.#activeMax) {
      const slot = this.#slots[this.#next];
      if (slot === undefined) return;
      this.#next += 1;
      void slot.work().then((answer) => {
        slot.answer = answer;
        slot.isAnswered = true;
        this.#replyInOrder();
      });
    }
  }

  #replyInOrder(): void {
    for (let slot = this.#slots[this.#first]; slot?.isAnswered; slot = this.#slots[this.#first]) {
      this.#first += 1;
      slot.reply(slot.answer as T);
    }
    this.#startNext();
    if (this.#first < this.#slots.length && this.#first < REPLIED_KEPT_MAX) return;
    this.#slots.splice(0, this.#first);
    this.#next -= this.#first;
    this.#first = 0;
  }
}
