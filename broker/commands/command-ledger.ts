import { EventEmitter } from 'node:events';
import type { Clock } from '../../devices/clock.ts';
import { isEnded, type Command, type CommandState, type Transport } from '../../devices/command.ts';
import { dueEvent, nextDeadlineAt, transition, type CommandEvent } from '../../devices/command-machine.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { Deadlines } from '../deadlines.ts';
import type { LiveEvents } from '../live-events.ts';
import { commandEventLine, commandLine } from '../store/line-protocol.ts';
import type { Change, Entry, State } from '../store/state.ts';
import type { TimeMark } from '../time-mark.ts';
import { CommandBook } from './command-book.ts';
import { commandChanges, endedCommand, openCommands } from './command-store.ts';

/**
 * The one place where commands change. A step goes through the state machine, takes effect in memory at once (so that no two
 * transports can take one command), and is written with its History rows in one commit. Whoever answers for a step waits for
 * its `durable`; live events are told after it.
 *
 * Steps that could not be written are kept in `#unsaved` and written when the disk takes them again: memory is never behind the disk.
 */
export type Step = {
  readonly command: Command;
  /** Rejects with `storage_unavailable` when the step could not be made durable. */
  readonly durable: Promise<void>;
};

type LedgerEvents = {
  /** A command may have become leasable. */
  queued: [deviceId: string];
  /** A command left the state `sent` of a push: there is room in the device's window. */
  confirmed: [deviceId: string];
  /** A step became durable. */
  stepped: [command: Command, from: CommandState | 'none'];
};

/** How soon a step is to be on disk: a lease, mostly followed by what confirms it, is written with that. */
type Haste = 'urgent' | 'exempt' | 'riding' | 'lingering';

const UNSAVED_RETRY_MS = 1_000;
const SLEW_MS_MAX = 1_000;
const NS_PER_MS = 1_000_000n;
const NS_PER_MICRO = 1_000n;

export class CommandLedger extends EventEmitter<LedgerEvents> {
  readonly book = new CommandBook();
  readonly #state: State;
  readonly #events: LiveEvents;
  readonly #clock: Clock;
  readonly #mark: TimeMark;
  readonly #deadlines: Deadlines;
  /** Ended, and not yet durable: neither in the book any more nor in State yet. */
  readonly #ending = new Map<string, Command>();
  readonly #unsaved = new Map<string, Command>();
  #retry: NodeJS.Timeout | undefined;
  #lastNs: bigint;

  constructor(state: State, events: LiveEvents, clock: Clock, mark: TimeMark) {
    super();
    this.setMaxListeners(0);
    this.#state = state;
    this.#events = events;
    this.#clock = clock;
    this.#mark = mark;
    this.#lastNs = BigInt(mark.floorMicros) * NS_PER_MICRO;
    this.#deadlines = new Deadlines(
      clock,
      (id) => this.#onDue(id),
      () => this.#takeBackFromTheFuture(),
    );
  }

  /** Reads the open commands. What came due meanwhile is carried out; hand-overs by MQTT and event stream lapse, since their sessions are gone. */
  async load(): Promise<void> {
    for await (const commands of openCommands(this.#state)) for (const command of commands) this.book.put(command);
    const now = this.#clock.now();
    for (const command of [...this.book.all()]) {
      this.#deadlines.set(command.id, nextDeadlineAt(command, now));
      if (command.state === 'sent' && command.transport !== 'http') this.tryStep(command.id, { type: 'lapse' });
      this.#onDue(command.id);
    }
    this.#takeBackFromTheFuture();
    this.#supersedeLeftovers();
  }

  /** Nanoseconds for a row in History, never the same twice, also across a restart. */
  nextNs(now: number): string {
    const ns = BigInt(now) * NS_PER_MS;
    this.#lastNs = ns > this.#lastNs ? ns : this.#lastNs + NS_PER_MICRO;
    return this.#lastNs.toString();
  }

  /** The number of a hand-over: epoch microseconds, never the same twice and always growing, also across a restart. */
  nextHandover(): number {
    return Number(BigInt(this.nextNs(this.#clock.now())) / NS_PER_MICRO);
  }

  /** Makes a new command durable, with the changes and rows that belong to it, and only then lets it be leased. */
  async add(command: Command, changes: readonly Change[], entries: readonly Entry[] = []): Promise<void> {
    const rows = [commandLine(command), this.#eventRow(command, 'none'), ...entries];
    await this.#commit(command.id, [...commandChanges(command), ...changes], rows, 'urgent');
    this.book.put(command);
    this.#deadlines.set(command.id, nextDeadlineAt(command, this.#clock.now()));
    this.#tell(command, 'none');
    this.emit('queued', command.deviceId);
  }

  /** An open command, or one that ended within the last week. */
  async find(id: string): Promise<Command | undefined> {
    return this.#inMemory(id) ?? (await endedCommand(this.#state, id));
  }

  /**
   * Takes one step of an open command, or of an ended one as it was found. Throws `unknown_command`, or the state machine's refusal.
   * A step that changes nothing is durable once what came before it is.
   */
  step(of: string | Command, event: CommandEvent): Step {
    return this.#step(of, event, 'exempt');
  }

  #step(of: string | Command, event: CommandEvent, how: 'exempt' | 'riding'): Step {
    const had = typeof of === 'string' ? this.book.get(of) : (this.#inMemory(of.id) ?? of);
    if (had === undefined)
      throw new DownlinkError('unknown_command', `no open command has the id ${typeof of === 'string' ? of : of.id}`);
    const now = this.#clock.now();
    const next = transition(had, event, now);
    if (next === 'not_leasable') throw new Error(`bug: command ${had.id} leased while ${had.state}`);
    if (next === 'command_finished' || next === 'command_delivered') {
      throw new DownlinkError(next, `the command is ${had.state}`);
    }
    if (next === had)
      return {
        command: had,
        durable: this.#unsaved.has(had.id) ? this.#save(had) : this.#state.commit([], [], 'exempt', had.id),
      };
    this.book.put(next);
    this.#deadlines.set(next.id, nextDeadlineAt(next, now));
    const durable = this.#write(next, had.state, event, how);
    if (next.state === 'superseded') this.#linkNewer(next);
    if (had.state === 'sent' && next.state !== 'sent') this.emit('confirmed', next.deviceId);
    if (next.state === 'queued' && had.state !== 'queued') this.emit('queued', next.deviceId);
    return { command: next, durable };
  }

  /**
   * A step that nobody answers for: a refusal means that it no longer applies. It is written with the next one that somebody answers for (a lease mostly
   * with the confirmation or the report that follows), or some milliseconds later.
   */
  tryStep(id: string, event: CommandEvent): Command | undefined {
    if (this.book.get(id) === undefined) return undefined;
    try {
      const { command, durable } = this.#step(id, event, 'riding');
      durable.catch(() => {});
      return command;
    } catch (error) {
      if (error instanceof DownlinkError) return undefined;
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#deadlines.close();
    clearTimeout(this.#retry);
    await this.#saveUnsaved().catch(() => {});
    // Before History has its last: hand-overs go on record too.
    await this.#state.flush().catch(() => {});
  }

  #write(command: Command, from: CommandState, event: CommandEvent, how: 'exempt' | 'riding'): Promise<void> {
    const { id } = command;
    // A deferral is written with the next step only: were it lost in a crash, the device that comes next would bring it about again.
    if (event.type === 'defer') {
      this.#tell(command, from);
      return Promise.resolve();
    }
    // Wakes are kept in State alone: History has a row for each change of state.
    const rows: Entry[] = [];
    if (command.state !== from || event.type !== 'wake') rows.push(rowOf(command));
    if (rows.length > 0 && event.type !== 'take_place') rows.push(this.#eventRow(command, from));
    if (isEnded(command)) this.#ending.set(id, command);
    const durable = this.#commit(id, commandChanges(command), rows, event.type === 'lease' ? 'lingering' : how).then(() => {
      if (this.#ending.get(id) === command) this.#ending.delete(id);
      // What an earlier step could not write is written with this one; written later, it would bring back what is past.
      this.#unsaved.delete(id);
      this.#tell(command, from);
    });
    durable.catch(() => {
      this.#unsaved.set(id, this.book.get(id) ?? this.#ending.get(id) ?? command);
      this.#ending.delete(id);
      this.#retryLater();
    });
    return durable;
  }

  /** The other end of `supersededBy`. The newer one is open nearly always; both are then in one batch, since they are of one turn. */
  #linkNewer({ id, supersededBy }: Command): void {
    if (supersededBy === undefined) return;
    const link = (newer: Command | undefined): void => {
      if (newer !== undefined) this.#step(newer, { type: 'take_place', of: id }, 'riding').durable.catch(() => {});
    };
    const newer = this.#inMemory(supersededBy);
    if (newer !== undefined) link(newer);
    else this.find(supersededBy).then(link, () => {});
  }

  /** With the mark of the latest time that anything here was given. */
  async #commit(of: string, changes: readonly Change[], rows: readonly Entry[], how: Haste): Promise<void> {
    const mark = this.#mark.changesFor(Number(this.#lastNs / NS_PER_MICRO));
    const all = mark.length === 0 ? changes : [...changes, ...mark];
    try {
      // A mark is not to be late.
      if (how === 'lingering' && mark.length === 0) await this.#state.linger(all, rows, of);
      else if (how === 'riding' || how === 'lingering') await this.#state.ride(all, rows, of);
      else await this.#state.commit(all, rows, how, of);
    } catch (error) {
      this.#mark.unsure();
      throw error;
    }
  }

  #inMemory(id: string): Command | undefined {
    return this.book.get(id) ?? this.#ending.get(id) ?? this.#unsaved.get(id);
  }

  #eventRow(command: Command, from: CommandState | 'none'): string {
    const timeNs = this.nextNs(this.#clock.now());
    return commandEventLine(command, { from, transport: transportOf(command), timeNs });
  }

  #tell(command: Command, from: CommandState | 'none'): void {
    this.#events.publish({ type: 'command', deviceId: command.deviceId, at: this.#clock.now(), from, command });
    this.emit('stepped', command, from);
  }

  #onDue(id: string): void {
    for (;;) {
      const command = this.book.get(id);
      if (command === undefined) return;
      const now = this.#clock.now();
      const event = dueEvent(command, now);
      if (event === undefined) {
        this.#deadlines.set(id, nextDeadlineAt(command, now));
        if (command.state === 'queued') this.emit('queued', command.deviceId);
        return;
      }
      this.tryStep(id, event);
    }
  }

  /** The clock was set back under these hand-overs: their leases would last for as long as that. */
  #takeBackFromTheFuture(): void {
    const latest = this.#clock.now() + SLEW_MS_MAX;
    for (const { id, state, sentAt } of [...this.book.all()]) {
      if (state === 'sent' && sentAt !== undefined && sentAt > latest) this.tryStep(id, { type: 'lapse' });
    }
  }

  /** After a crash between a command's commit and the end of those it replaces, both are here: the newest of a key stays. */
  #supersedeLeftovers(): void {
    const newest = new Map<string, Command>();
    const keyed = [...this.book.all()].filter((command) => command.key !== undefined);
    for (const command of keyed.toSorted((a, b) => (a.id < b.id ? 1 : -1))) {
      const place = `${command.deviceId}/${command.key}`;
      const newer = newest.get(place);
      if (newer === undefined) newest.set(place, command);
      else this.tryStep(command.id, { type: 'supersede', by: newer.id });
    }
  }

  async #save(command: Command): Promise<void> {
    await this.#state.commit(commandChanges(command), [rowOf(command)], 'exempt', command.id);
    this.#unsaved.delete(command.id);
  }

  async #saveUnsaved(): Promise<void> {
    for (const [id, command] of [...this.#unsaved]) await this.#save(this.book.get(id) ?? command);
  }

  #retryLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#saveUnsaved().catch(() => this.#retryLater());
    }, UNSAVED_RETRY_MS).unref();
  }
}

/** Only the last of the rows that are written together is needed: it has all that the earlier ones have. */
function rowOf(command: Command): Entry {
  return { of: command.id, row: () => commandLine(command) };
}

function transportOf(command: Command): Transport | undefined {
  return isEnded(command) && command.deliveredAt === undefined ? undefined : command.transport;
}
