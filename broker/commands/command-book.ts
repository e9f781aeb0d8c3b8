import { COMMAND_STATES, compareForDelivery, isEnded, type Command, type CommandState } from '../../devices/command.ts';

/** The open commands of all devices, in memory, each device's in the order of delivery. Knows nothing of time, disk or wire. */
export class CommandBook {
  readonly #byId = new Map<string, Command>();
  readonly #byDevice = new Map<string, Command[]>();
  readonly #counts = new Map<CommandState, number>(COMMAND_STATES.map((state) => [state, 0]));

  get size(): number {
    return this.#byId.size;
  }

  get(id: string): Command | undefined {
    return this.#byId.get(id);
  }

  /** A device's open commands in the order of delivery. Not to be changed, and only good until the next change. */
  of(deviceId: string): readonly Command[] {
    return this.#byDevice.get(deviceId) ?? [];
  }

  countOf(deviceId: string): number {
    return this.#byDevice.get(deviceId)?.length ?? 0;
  }

  /** How many open commands are in a state. */
  countIn(state: CommandState): number {
    return this.#counts.get(state) ?? 0;
  }

  all(): IterableIterator<Command> {
    return this.#byId.values();
  }

  /** Takes the command in, in place of an earlier step of itself; an ended one goes out. */
  put(command: Command): void {
    const had = this.#byId.get(command.id);
    if (had !== undefined) this.#count(had.state, -1);
    if (isEnded(command)) {
      if (had !== undefined) this.#remove(had);
      return;
    }
    this.#byId.set(command.id, command);
    this.#count(command.state, 1);
    let queue = this.#byDevice.get(command.deviceId);
    if (queue === undefined) {
      queue = [];
      this.#byDevice.set(command.deviceId, queue);
    }
    const place = placeOf(queue, command);
    if (had === undefined) queue.splice(place, 0, command);
    else queue[place] = command;
  }

  #remove(command: Command): void {
    this.#byId.delete(command.id);
    const queue = this.#byDevice.get(command.deviceId);
    if (queue === undefined) return;
    const place = placeOf(queue, command);
    if (place === 0) queue.shift();
    else queue.splice(place, 1);
    if (queue.length === 0) this.#byDevice.delete(command.deviceId);
  }

  #count(state: CommandState, by: 1 | -1): void {
    this.#counts.set(state, (this.#counts.get(state) ?? 0) + by);
  }
}

/** Where the command stands in its queue, or is to be put. Id and priority never change, so its place is its own; most often it is the first. */
function placeOf(queue: readonly Command[], command: Command): number {
  if (queue[0]?.id === command.id) return 0;
  let low = 0;
  let high = queue.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const other = queue[middle];
    if (other !== undefined && compareForDelivery(other, command) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
