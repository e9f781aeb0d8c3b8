import type { EndState, CommandState } from '../../devices/command.ts';
import type { JsonValue } from '../../devices/json.ts';

/** What the simulation itself knows of each command, from its operator and its devices; and what the server says. */
export type Facts = {
  readonly id: string;
  /** What the operator asked for; absent for a command of somebody else. */
  issued?: Issued;
  cancelled: 'no' | 'yes' | 'unknown';
  /** How often it came to the device, repeats included. */
  received: number;
  executions: number;
  /** The device will say nothing more of it. */
  silent: boolean;
  /** The device's word. */
  word?: { readonly state: DevicesWord; readonly result?: JsonValue };
  /** Some report of it, an end or not, is known to have counted: HTTP says so, a PUBACK does not. */
  anyReportTaken: boolean;
  /** The word was acknowledged. */
  wordTaken: boolean;
  /** The server's code when it refused the word. */
  refused?: string;
  /** Milliseconds of a steady clock. */
  arrivedAtMs?: number;
  /** As last seen on the live stream. */
  seen?: CommandState;
};

export type Issued = {
  readonly deviceId: string;
  readonly name: string;
  readonly key?: string;
  readonly confirm: 'result' | 'delivery';
  /** It was given so little time, or so few wakes, that it may well expire. */
  readonly mayExpire: boolean;
  readonly atMs: number;
};

export type DevicesWord = Extract<EndState, 'succeeded' | 'failed' | 'rejected'>;

export class Ledger {
  readonly #facts = new Map<string, Facts>();

  /** The facts of a command, begun when it is first heard of: it may reach its device before the operator has the answer. */
  of(commandId: string): Facts {
    let facts = this.#facts.get(commandId);
    if (facts === undefined) {
      facts = {
        id: commandId,
        cancelled: 'no',
        received: 0,
        executions: 0,
        silent: false,
        anyReportTaken: false,
        wordTaken: false,
      };
      this.#facts.set(commandId, facts);
    }
    return facts;
  }

  known(commandId: string): Facts | undefined {
    return this.#facts.get(commandId);
  }

  /** Those that this run issued. */
  *issued(): Iterable<Facts & { issued: Issued }> {
    for (const facts of this.#facts.values()) if (isIssued(facts)) yield facts;
  }
}

function isIssued(facts: Facts): facts is Facts & { issued: Issued } {
  return facts.issued !== undefined;
}
