import { hash } from 'node:crypto';
import { SECOND_MS } from '../../devices/clock.ts';
import { LEASE_SECONDS_DEFAULT, type Command } from '../../devices/command.ts';
import { cursorOfText, cursorText, wrongCursor, type Cursor, type CursorDigest } from '../../devices/cursor.ts';
import type { Device } from '../../devices/device.ts';
import { DEFERRED_BEHIND_MAX, pack, type Packed, type PackingDeferral } from '../../devices/packing.ts';
import type { Sleep } from '../../devices/sleep-hint.ts';
import type { PresenceTracker } from '../registry/presence-tracker.ts';
import type { CommandLedger } from './command-ledger.ts';
import type { DeliveryGate } from './delivery-gate.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { QueueChanges } from './queue-changes.ts';
import type { SleepAdvisor } from './sleep-advisor.ts';

/**
 * Pulling: a device that comes confirms what it got, leases what is queued for it, and learns until when it may sleep.
 *
 * Each answer goes out with a cursor. Given back as `since` it confirms what that answer carried, and says that nothing after it arrived: what was handed
 * over later is offered again at once.
 */
export type PullRequest = {
  /** Commands at most. */
  readonly limit: number;
  /** Octets of the whole answer at most. */
  readonly maxBytes?: number;
  readonly since?: string;
  /** Octets that a command, still to be leased, takes in the answer, separator included. */
  sizeOf(command: Command): number;
  /** Octets of the answer without any command. */
  readonly envelopeBytes: number;
};

export type Pulled = {
  readonly commands: readonly Command[];
  /** There is more that fits into such an answer, right now. */
  readonly more: boolean;
  readonly cursor: string;
  readonly sleep: Sleep;
};

export type QueueTag = { readonly etag: string; readonly etagBefore?: string | undefined; readonly lastChangeAt: number };

/** Longer ones are told by their digest. */
const TAG_CHARS_MAX = 96;
/** Whatever a poll would be given, it would be nothing. */
const NOTHING_TAG = 'W/"nothing"';

export class CommandPull {
  readonly #ledger: CommandLedger;
  readonly #gate: DeliveryGate;
  readonly #dispatcher: Dispatcher;
  readonly #presence: PresenceTracker;
  readonly #changes: QueueChanges;
  readonly #advisor: SleepAdvisor;
  readonly #digest: CursorDigest;

  constructor(
    ledger: CommandLedger,
    gate: DeliveryGate,
    dispatcher: Dispatcher,
    presence: PresenceTracker,
    changes: QueueChanges,
    advisor: SleepAdvisor,
    digest: CursorDigest,
  ) {
    this.#ledger = ledger;
    this.#gate = gate;
    this.#dispatcher = dispatcher;
    this.#presence = presence;
    this.#changes = changes;
    this.#advisor = advisor;
    this.#digest = digest;
  }

  /** The device came: a contact, and with the first of a wake one wake less for the commands that count them. */
  arrive(device: Device): void {
    this.#presence.contact(device.id);
    if (!this.#presence.takeWake(device.id)) return;
    for (const { id, expiresWakes } of [...this.#gate.offer(device.id)]) {
      if (expiresWakes !== undefined) this.#ledger.tryStep(id, { type: 'wake' });
    }
  }

  /**
   * Leases what is queued, in the order of delivery, as far as it fits; what does not is told on the command. With `since` as `confirmThrough` first, whose
   * end is not waited for. The attempt is written with the next commit, which the answer does not wait for either: a crash may repeat a hand-over, never
   * lose one. What a push session holds in doubt is taken over. Throws `invalid_cursor` before anything changes. `isArrival` is false when `arrive` was called for
   * this request.
   */
  lease(device: Device, request: PullRequest, isArrival = true): Pulled {
    const since = request.since === undefined ? undefined : this.checkCursor(device, request.since);
    return this.#dispatcher.hold(device.id, () => this.#lease(device, request, since, isArrival));
  }

  #lease(device: Device, request: PullRequest, since: Cursor | undefined, isArrival: boolean): Pulled {
    if (since !== undefined) this.#acknowledge(device.id, since).catch(() => {});
    // After the confirmations: what the device has got is not counted as offered once more.
    if (isArrival) this.arrive(device);
    this.#dispatcher.giveBackDoubtful(device.id);
    const { taken, deferred, more } = this.#packed(device.id, request);
    const leaseMs = (device.limits.leaseSeconds ?? LEASE_SECONDS_DEFAULT) * SECOND_MS;
    const commands: Command[] = [];
    for (const { id } of taken) {
      const handover = this.#ledger.nextHandover();
      const leased = this.#ledger.tryStep(id, { type: 'lease', transport: 'http', leaseMs, handover });
      if (leased?.state === 'sent') commands.push(leased);
    }
    for (const deferral of deferred) this.#defer(deferral);
    if (commands.length > 0) this.#changes.note(device.id);
    return { commands, more, cursor: this.#cursorAfter(device, commands, request.since), sleep: this.sleep(device, more) };
  }

  /**
   * The device has what the cursor stands for and nothing that was handed over after it: confirms the one, and offers the other again at once. Resolves when
   * durable, rejects with `storage_unavailable`; throws `invalid_cursor` before anything changes. `at` names where the cursor was given.
   */
  confirmThrough(device: Device, since: string, at = 'query.since'): Promise<void> {
    return this.#acknowledge(device.id, this.checkCursor(device, since, at));
  }

  /** Throws `invalid_cursor` for a cursor that this device was not given here, or one from the future: State was set back under it. */
  checkCursor(device: Device, since: string, at = 'query.since'): Cursor {
    const cursor = cursorOfText(device, since, this.#digest, at);
    if (cursor.through >= this.#ledger.nextHandover()) throw wrongCursor('is of a later time than this server knows of', at);
    return cursor;
  }

  /** The text of a cursor of this device. */
  cursorOf(device: Device, cursor: Cursor): string {
    return cursorText(device, cursor, this.#digest);
  }

  /**
   * Entity tag and time of the last change of what would be handed over now, from memory. What does not fit into one kind of answer may fit into another:
   * `variant` names the kind, and makes for another tag where there is something. `limit`: an answer holds no more, so that of what is behind it only
   * matters whether there is something. `etagBefore`: that of the answer which took all there was; who gives it back knows that nothing is left.
   */
  tag(device: Device, variant = '', limit = Number.POSITIVE_INFINITY): QueueTag {
    const lastChangeAt = this.#changes.lastChangeAt(device.id);
    let text = '';
    for (const { id, attempts } of this.#dispatcher.doubtful(device.id)) text += `,${id}:${attempts}`;
    let count = 0;
    for (const { id, attempts } of this.#gate.firstOf(device.id, limit + 1)) {
      count += 1;
      text += count > limit ? ',more' : `,${id}:${attempts}`;
    }
    if (text === '') return { etag: NOTHING_TAG, etagBefore: this.#changes.takenTag(device.id), lastChangeAt };
    const whole = variant + text;
    return { etag: `W/"${whole.length <= TAG_CHARS_MAX ? whole : hash('sha256', whole, 'base64url')}"`, lastChangeAt };
  }

  /** The answer that went out with this tag carries commands. */
  noteTaken(deviceId: string, { etag }: QueueTag): void {
    this.#changes.noteTaken(deviceId, etag);
  }

  hasLeasable(deviceId: string): boolean {
    return this.#gate.firstOf(deviceId, 1).length > 0 || this.#dispatcher.doubtful(deviceId).length > 0;
  }

  /** An answer with these commands, as leased for it, never left: they are offered again at once, and the attempt does not count. */
  release(commands: readonly Pick<Command, 'id' | 'handover'>[]): void {
    for (const { id, handover } of commands) {
      if (this.#ledger.book.get(id)?.handover === handover) this.#ledger.tryStep(id, { type: 'release' });
    }
  }

  /** Until when the device may sleep; it is promised to be met then. */
  sleep(device: Device, more: boolean): Sleep {
    return this.#advisor.advise(device, { more });
  }

  /** What is cancelled because its condition does not hold makes room for others. */
  #packed(deviceId: string, request: PullRequest): Packed<Command> {
    // Where octets are counted, some may be passed over.
    const { limit, maxBytes } = request;
    for (;;) {
      const offered =
        maxBytes === undefined ? this.#gate.firstOf(deviceId, limit + DEFERRED_BEHIND_MAX) : this.#gate.offer(deviceId);
      const packed = pack(offered, request, (command) => request.sizeOf(command));
      if (this.#gate.admit(packed.taken)) return packed;
    }
  }

  /** A lapse in between changes nothing: what arrived stays confirmable by its number until it is handed over anew. */
  async #acknowledge(deviceId: string, { way, after, through }: Cursor): Promise<void> {
    const durable: Promise<void>[] = [];
    for (const { id, state, transport, handover = 0 } of [...this.#ledger.book.of(deviceId)]) {
      const isOpen = state === 'queued' || state === 'sent';
      if (isOpen && transport === way && handover > after && handover <= through) {
        durable.push(this.#ledger.step(id, { type: 'confirm', transport: way }).durable);
      } else if (state === 'sent' && handover > through && (transport === 'http' || transport === way)) {
        // An answer by HTTP that came would have been told of. Of events only an older event's id says that they did not come.
        this.#ledger.tryStep(id, { type: 'lapse' });
      }
    }
    await Promise.all(durable);
  }

  #defer({ item, reason, bytes, bytesMax }: PackingDeferral<Command>): void {
    const had = item.deferral;
    if (had?.reason === reason && had.bytes === bytes && had.bytesMax === bytesMax) return;
    const sizes = { ...(bytes !== undefined && { bytes }), ...(bytesMax !== undefined && { bytesMax }) };
    this.#ledger.tryStep(item.id, { type: 'defer', reason, ...sizes });
  }

  /** The cursor of an answer without commands is the one the device has, or one that stands for nothing. */
  #cursorAfter(device: Device, commands: readonly Command[], since: string | undefined): string {
    const first = commands[0]?.handover;
    const through = commands.at(-1)?.handover;
    if (first !== undefined && through !== undefined) return this.cursorOf(device, { way: 'http', after: first - 1, through });
    if (since !== undefined) return since;
    const now = this.#ledger.nextHandover();
    return this.cursorOf(device, { way: 'http', after: now, through: now });
  }
}
