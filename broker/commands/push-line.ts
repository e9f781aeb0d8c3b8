import { SECOND_MS } from '../../devices/clock.ts';
import type { Command } from '../../devices/command.ts';
import type { CommandLedger } from './command-ledger.ts';

/** A connection that takes commands as they come: of a device on MQTT, or a stream of events. */
export interface PushSession {
  readonly deviceId: string;
  readonly transport: 'mqtt' | 'sse';
  /** A working connection confirms within this time, because confirming is the business of its protocol and not of the device. */
  readonly confirmsWithinMs?: number | undefined;
  /** It has as much unsent as it may have; whoever says so has the device dispatched to when that changes. */
  readonly isFull?: boolean;
  push(command: Command): void;
  /** From here on the device's commands go to it: called when it opens, and each time that a newer one has ended. */
  begin?(): void;
}

/** A session, what it was handed over and has not confirmed, and what that says of it. */
export class PushLine {
  readonly session: PushSession;
  readonly #ledger: CommandLedger;
  /** Hand-over numbers by command id. */
  readonly #unconfirmed = new Map<string, number>();
  /** A lease of it lapsed, and it has confirmed nothing since. */
  #isMute = false;

  constructor(session: PushSession, ledger: CommandLedger) {
    this.session = session;
    this.#ledger = ledger;
  }

  get unconfirmed(): number {
    return this.#unconfirmed.size;
  }

  holds({ id, handover }: Command): boolean {
    return handover !== undefined && this.#unconfirmed.get(id) === handover;
  }

  /** Leases the command to the session and sends it. */
  push(command: Command, leaseMs: number): void {
    const { transport } = this.session;
    const handover = this.#ledger.nextHandover();
    const leased = this.#ledger.tryStep(command.id, { type: 'lease', transport, leaseMs, handover });
    if (leased?.state !== 'sent') return;
    this.#unconfirmed.set(leased.id, handover);
    this.session.push(leased);
  }

  /** Lets go of what it does not hold any more, and learns from it. */
  settle(): void {
    for (const [id, handover] of this.#unconfirmed) {
      const command = this.#ledger.book.get(id);
      const isSame = command?.handover === handover;
      if (isSame && command.state === 'sent') continue;
      this.#unconfirmed.delete(id);
      if (command?.deliveredAt !== undefined) this.#isMute = false;
      else if (isSame && command.state === 'queued') this.#isMute = true;
    }
  }

  /** What it holds is queued again. Without `isGone` it keeps what has no attempt left: it may be alive and confirm. */
  giveBack({ isGone }: { isGone: boolean }): void {
    for (const [id, handover] of this.#unconfirmed) {
      const command = this.#ledger.book.get(id);
      if (command?.state !== 'sent' || command.handover !== handover) continue;
      if (!isGone && command.attempts >= command.maxAttempts) continue;
      this.#unconfirmed.delete(id);
      this.#ledger.tryStep(id, { type: 'lapse' });
    }
  }

  /** From when on this command, which it holds, is in doubt. */
  doubtfulAt({ sentAt = 0 }: Command): number {
    if (this.#isMute) return sentAt;
    return sentAt + (this.session.confirmsWithinMs ?? Number.POSITIVE_INFINITY);
  }

  /** When the next of what it holds comes into doubt. */
  nextDoubtAt(now: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (const id of this.#unconfirmed.keys()) {
      const command = this.#ledger.book.get(id);
      const at = command === undefined ? 0 : this.doubtfulAt(command);
      if (at > now) next = Math.min(next, at);
    }
    return next;
  }
}

/** A command whose session ended goes out again at once; the second time after a second, and each further time after twice as long. */
const PROMPT_ATTEMPTS = 2;

/**
 * When the command may be pushed (again): a device that comes and goes many times a second does not use up its attempts. Its lease is the longest that it
 * waits; it may be pulled at any time.
 */
export function pushableAt({ sentAt, attempts }: Command, leaseMs: number, now: number): number {
  // Sent in the future: the clock was set back.
  if (sentAt === undefined || sentAt > now || attempts < PROMPT_ATTEMPTS) return now;
  return sentAt + Math.min(SECOND_MS * 2 ** (attempts - PROMPT_ATTEMPTS), leaseMs);
}
