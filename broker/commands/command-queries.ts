import { END_STATES, isEnded, type Command, type CommandState } from '../../devices/command.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { isUuidV7 } from '../../devices/uuid-v7.ts';
import type { History } from '../store/history.ts';
import type { State } from '../store/state.ts';
import type { CommandLedger } from './command-ledger.ts';
import { endedCommand, endedCommandsOf } from './command-store.ts';

/**
 * Finding commands: State has the open ones and a week of ended ones, as they are now; History has all, as they were when last shipped. Where both
 * know a command, State's word counts.
 */
export type CommandListQuery = {
  readonly deviceId: string;
  readonly states?: readonly CommandState[] | undefined;
  /** By the time of issue, epoch nanoseconds, [fromNs, toNs). */
  readonly fromNs: bigint;
  readonly toNs: bigint;
  readonly limit: number;
};

export type CommandList = {
  /** Newest first. */
  readonly commands: readonly Command[];
  /** Where to go on: the next page's `toNs`. Absent when there is no more. */
  readonly nextToNs?: bigint;
  /** History could not be asked: only what State knows is here. */
  readonly isPartial: boolean;
};

const END_STATE_SET = new Set<CommandState>(END_STATES);

export class CommandQueries {
  readonly #ledger: CommandLedger;
  readonly #state: State;
  readonly #history: History;

  constructor(ledger: CommandLedger, state: State, history: History) {
    this.#ledger = ledger;
    this.#state = state;
    this.#history = history;
  }

  /** Throws `unknown_command`, or `history_unavailable` when only History could know. */
  async get(id: string): Promise<Command> {
    const command = (await this.#ledger.find(id)) ?? (isUuidV7(id) ? await this.#history.command(id) : undefined);
    if (command === undefined) throw new DownlinkError('unknown_command', `no command has the id ${id.slice(0, 64)}`);
    return command;
  }

  async list(query: CommandListQuery): Promise<CommandList> {
    const { deviceId, states, limit } = query;
    const matches = (command: Command): boolean =>
      isInRange(command, query) && (states === undefined || states.includes(command.state));
    const open = this.#ledger.book.of(deviceId).filter(matches);
    // What ended before this look at the book is in State once earlier commits are; what ended since is there in its newer state.
    await this.#state.commit([], []);
    const asksForEnded = states === undefined || states.some((state) => END_STATE_SET.has(state));
    const ended = asksForEnded ? await this.#endedInState(query, matches) : [];
    const past = asksForEnded ? await this.#endedInHistory(query) : { commands: [], isPartial: false, isFull: false };
    const known = new Map<string, Command>();
    for (const command of [...past.commands, ...open, ...ended]) known.set(command.id, command);
    const newestFirst = [...known.values()].toSorted((a, b) => (BigInt(a.historyNs) < BigInt(b.historyNs) ? 1 : -1));
    const commands = newestFirst.slice(0, limit);
    const last = commands.at(-1);
    const hasMore = newestFirst.length > limit || (past.isFull && commands.length === limit);
    return { commands, isPartial: past.isPartial, ...(hasMore && last !== undefined && { nextToNs: BigInt(last.historyNs) }) };
  }

  async #endedInState(query: CommandListQuery, matches: (command: Command) => boolean): Promise<Command[]> {
    const found: Command[] = [];
    for await (const command of endedCommandsOf(this.#state, query.deviceId)) {
      if (BigInt(command.historyNs) < query.fromNs) break;
      if (matches(command)) found.push(command);
      if (found.length > query.limit) break;
    }
    return found;
  }

  /** Rows of ended commands that State no longer has; a row of a command that State has may be behind, and State has been asked. */
  async #endedInHistory(query: CommandListQuery): Promise<{ commands: Command[]; isPartial: boolean; isFull: boolean }> {
    const { deviceId, states, fromNs, limit } = query;
    const commands: Command[] = [];
    let { toNs } = query;
    try {
      for (;;) {
        const rows = await this.#history.commands({ deviceId, fromNs, toNs, limit: limit + 1, states: states ?? END_STATES });
        for (const row of rows) {
          const isInState =
            this.#ledger.book.get(row.id) !== undefined || (await endedCommand(this.#state, row.id)) !== undefined;
          if (!isInState && isEnded(row)) commands.push(row);
        }
        const last = rows.at(-1);
        const isFull = commands.length > limit;
        if (isFull || last === undefined || rows.length <= limit) return { commands, isPartial: false, isFull };
        toNs = BigInt(last.historyNs);
      }
    } catch (error) {
      if (error instanceof DownlinkError && error.code === 'history_unavailable')
        return { commands, isPartial: true, isFull: false };
      throw error;
    }
  }
}

function isInRange(command: Command, { fromNs, toNs }: CommandListQuery): boolean {
  const ns = BigInt(command.historyNs);
  return ns >= fromNs && ns < toNs;
}
