/**
 * What the clients know of by themselves: all that they sent, and what of it was acknowledged. Kept apart from the server, and compared with it
 * at the end.
 */
export type Way = 'mqtt qos 1' | 'mqtt qos 2' | 'http';
export const WAYS: readonly Way[] = ['mqtt qos 1', 'mqtt qos 2', 'http'];

export type SentReading = {
  readonly deviceId: string;
  readonly way: Way;
  /** Its value, unique in the device. */
  readonly n: number;
  /** Epoch ms; absent where the server is to give the time. */
  readonly ts?: number;
  /** How often it went out. */
  tries: number;
  isAcknowledged: boolean;
};

export type IssuedCommand = {
  /** Also the command's `params.order`, so that two commands of one key are told apart from two keys. */
  readonly idempotencyKey: string;
  readonly deviceId: string;
  readonly body: Readonly<Record<string, unknown>>;
  /** All ids that were ever answered for the key. */
  readonly ids: Set<string>;
  cancel: 'none' | 'asked' | 'done' | 'refused';
};

export type Execution = {
  readonly commandId: string;
  readonly deviceId: string;
  /** The state it was reported with. */
  readonly state: 'succeeded' | 'failed' | 'rejected';
  /** Of the last report, by the device. */
  isAcknowledged: boolean;
  /** The server said that the report came too late to count. */
  isRefused: boolean;
  /** Hand-overs of it before and after the report was acknowledged. */
  handOvers: number;
  handOversAfterEnd: number;
};

export class Records {
  readonly readings: SentReading[] = [];
  readonly commands: IssuedCommand[] = [];
  readonly executions = new Map<string, Execution>();
  acknowledgements = 0;
  #onAcknowledged: () => void = () => {};
  #onHandedOver: () => void = () => {};

  /** Calls `listener` at each acknowledgement, in the very turn in which it came. One listener. */
  onAcknowledged(listener: () => void): void {
    this.#onAcknowledged = listener;
  }

  acknowledged(): void {
    this.acknowledgements += 1;
    this.#onAcknowledged();
  }

  /** Calls `listener` at each hand-over of a command, before the device confirms it. One listener. */
  onHandedOver(listener: () => void): void {
    this.#onHandedOver = listener;
  }

  handedOver(): void {
    this.#onHandedOver();
  }

  get acknowledgedReadings(): number {
    return this.readings.reduce((count, { isAcknowledged }) => count + Number(isAcknowledged), 0);
  }

  get acknowledgedCommands(): number {
    return this.commands.reduce((count, { ids }) => count + Number(ids.size > 0), 0);
  }

  get acknowledgedReports(): number {
    let count = 0;
    for (const { isAcknowledged } of this.executions.values()) count += Number(isAcknowledged);
    return count;
  }
}

export function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups;
}
