import type { Random } from '../../simulators/models/random.ts';
import type { Execution, Records } from './records.ts';

/** Carries commands out once and remembers how each ended, as a device that was never restarted. */
export class ExecutionLog {
  readonly #records: Records;
  readonly #deviceId: string;
  readonly #random: Random;

  constructor(records: Records, deviceId: string, random: Random) {
    this.#records = records;
    this.#deviceId = deviceId;
    this.#random = random;
  }

  /** A command was handed over. `isNew` where it is to be carried out; otherwise its end is to be reported again. */
  take(commandId: string): { execution: Execution; isNew: boolean } {
    this.#records.handedOver();
    const known = this.#records.executions.get(commandId);
    if (known !== undefined) {
      known.handOvers += 1;
      if (known.isAcknowledged || known.isRefused) known.handOversAfterEnd += 1;
      return { execution: known, isNew: false };
    }
    const execution: Execution = {
      commandId,
      deviceId: this.#deviceId,
      state: this.#random.pick(['succeeded', 'succeeded', 'succeeded', 'failed', 'rejected']),
      isAcknowledged: false,
      isRefused: false,
      handOvers: 1,
      handOversAfterEnd: 0,
    };
    this.#records.executions.set(commandId, execution);
    return { execution, isNew: true };
  }
}

export function reportOf({ state, commandId }: Execution): object {
  return state === 'succeeded' ? { state, result: { done: commandId } } : { state, message: `no ${commandId}` };
}
