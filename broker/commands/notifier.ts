import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import type { Command } from '../../devices/command.ts';
import { Deadlines } from '../deadlines.ts';
import type { CommandLedger } from './command-ledger.ts';
import type { Dispatcher } from './dispatcher.ts';

/**
 * Notify, then pull: tells connected devices that something waits for their pull, which is all that may be leased and is not pushed to them.
 *
 * A session is notified when it opens, and then of news: a command that waits and that it was not told of since it was last handed over. News that come
 * together are told together. A device that has not come since it was told is told less and less often, but at once, one time, that something has become
 * urgent; one that has come is told at once again.
 */
export interface NotifySession {
  readonly deviceId: string;
  /** False when it could not be sent, because the connection has too much unsent: it is tried again. */
  notify(pending: number, isUrgent: boolean): boolean;
}

export const NOTIFY_GAP_MS_MIN = SECOND_MS;
export const NOTIFY_GAP_MS_MAX = 60 * SECOND_MS;

type Line = {
  readonly key: string;
  readonly session: NotifySession;
  /** Hand-over numbers, by id, of the commands that it was told of; 0 for one that was never handed over. */
  told: Map<string, number>;
  wasToldUrgent: boolean;
  toldAt: number;
  /** What it is left in peace for after it was told. */
  gapMs: number;
  /** It was told, and has not come since. */
  isAwaited: boolean;
  /** Something that had been handed over has been confirmed or has lapsed since it was told. */
  hasLeft: boolean;
};

export class Notifier {
  readonly #ledger: CommandLedger;
  readonly #dispatcher: Dispatcher;
  readonly #clock: Clock;
  readonly #lines = new Map<string, Line[]>();
  readonly #byKey = new Map<string, Line>();
  readonly #deadlines: Deadlines;
  /** Devices to be looked at in the next turn. */
  readonly #stirred = new Set<string>();
  #turn: NodeJS.Immediate | undefined;
  #lastKey = 0;

  constructor(ledger: CommandLedger, dispatcher: Dispatcher, clock: Clock) {
    this.#ledger = ledger;
    this.#dispatcher = dispatcher;
    this.#clock = clock;
    this.#deadlines = new Deadlines(
      clock,
      (key) => this.#look(this.#byKey.get(key)),
      () => this.#lookAgain(),
    );
    ledger.on('queued', (deviceId) => this.#stir(deviceId));
    ledger.on('confirmed', (deviceId) => {
      for (const line of this.#lines.get(deviceId) ?? []) line.hasLeft = true;
    });
    dispatcher.onSessions((deviceId) => this.#stir(deviceId));
  }

  /** Notifies the session from now on, and of what waits already. Opened again, it is told again. */
  open(session: NotifySession): void {
    this.close(session);
    const key = String((this.#lastKey += 1));
    const line: Line = {
      key,
      session,
      told: new Map(),
      wasToldUrgent: false,
      toldAt: Number.NEGATIVE_INFINITY,
      gapMs: NOTIFY_GAP_MS_MIN,
      isAwaited: false,
      hasLeft: false,
    };
    this.#byKey.set(key, line);
    const lines = this.#lines.get(session.deviceId);
    if (lines === undefined) this.#lines.set(session.deviceId, [line]);
    else lines.push(line);
    this.#stir(session.deviceId);
  }

  close(session: NotifySession): void {
    const lines = this.#lines.get(session.deviceId) ?? [];
    const at = lines.findIndex((line) => line.session === session);
    const line = lines[at];
    if (line === undefined) return;
    lines.splice(at, 1);
    if (lines.length === 0) this.#lines.delete(session.deviceId);
    this.#byKey.delete(line.key);
    this.#deadlines.set(line.key, undefined);
  }

  /** Notifies nobody any more. */
  stop(): void {
    clearImmediate(this.#turn);
    this.#deadlines.close();
    this.#lines.clear();
    this.#byKey.clear();
  }

  #stir(deviceId: string): void {
    if (!this.#lines.has(deviceId)) return;
    this.#stirred.add(deviceId);
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined;
      const stirred = [...this.#stirred];
      this.#stirred.clear();
      for (const id of stirred) for (const line of [...(this.#lines.get(id) ?? [])]) this.#look(line);
    });
  }

  #look(line: Line | undefined): void {
    if (line === undefined) return;
    const waiting = this.#dispatcher.waitingForPull(line.session.deviceId);
    if (this.#hasCome(line)) {
      line.gapMs = NOTIFY_GAP_MS_MIN;
      line.toldAt = Number.NEGATIVE_INFINITY;
      line.wasToldUrgent = false;
      line.isAwaited = false;
      line.hasLeft = false;
      line.told = new Map(waiting.filter((command) => isToldOf(line, command)).map(toldOf));
    }
    const news = waiting.filter((command) => !isToldOf(line, command));
    if (news.length === 0) return;
    const now = this.#clock.now();
    const isUrgentNews = !line.wasToldUrgent && news.some(({ priority }) => priority === 'urgent');
    const dueAt = line.toldAt + line.gapMs;
    if (now < dueAt && !isUrgentNews) return this.#deadlines.set(line.key, dueAt);

    const isUrgent = waiting.some(({ priority }) => priority === 'urgent');
    if (!line.session.notify(waiting.length, isUrgent)) return this.#deadlines.set(line.key, now + NOTIFY_GAP_MS_MIN);
    if (line.isAwaited) line.gapMs = Math.min(2 * line.gapMs, NOTIFY_GAP_MS_MAX);
    line.told = new Map(waiting.map(toldOf));
    line.wasToldUrgent ||= isUrgent;
    line.toldAt = now;
    line.isAwaited = true;
    line.hasLeft = false;
  }

  /** The device has been handed over something that it was told of. */
  #hasCome({ told, hasLeft }: Line): boolean {
    for (const [id, handover] of told) {
      const command = this.#ledger.book.get(id);
      if (command === undefined ? hasLeft : command.handover !== undefined && command.handover !== handover) return true;
    }
    return false;
  }

  /** The clock was set back: what was told lies ahead. */
  #lookAgain(): void {
    for (const line of this.#byKey.values()) {
      line.toldAt = Number.NEGATIVE_INFINITY;
      this.#look(line);
    }
  }
}

function toldOf({ id, handover = 0 }: Command): readonly [string, number] {
  return [id, handover];
}

function isToldOf({ told }: Line, { id, handover = 0 }: Command): boolean {
  return told.get(id) === handover;
}
