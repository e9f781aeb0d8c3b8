import { commandsContract } from './history-contract-commands.ts';
import { readingsContract } from './history-contract-readings.ts';
import type { HistoryHarness } from './history-fixtures.ts';

/** What History promises, for every adapter. */
export function historyContract(name: string, harness: HistoryHarness): void {
  readingsContract(name, harness);
  commandsContract(name, harness);
}
