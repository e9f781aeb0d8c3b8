import { delay } from '../client/backoff.ts';
import { ApiError, type OperatorApi } from '../operator-api.ts';
import type { Screen } from '../screen.ts';
import { atOnce } from './at-once.ts';
import { COUNTED_METRIC } from './kinds.ts';
import type { Ledger } from './ledger.ts';
import { HISTORY_MS_MAX, READS_AT_ONCE } from './limits.ts';
import type { Target } from './operator-load.ts';
import type { Found } from './reckoning.ts';
import type { ReadingsCheck } from './summary.ts';

/** Asks the server for every command that was issued: how it ended, by the server's own record. Those it does not tell are left out. */
export async function readBack(api: OperatorApi, ledger: Ledger, screen: Screen): Promise<Map<string, Found>> {
  const found = new Map<string, Found>();
  const issued = [...ledger.issued()];
  screen.say(`Reading ${issued.length} commands back.`);
  try {
    await atOnce(READS_AT_ONCE, issued, async ({ id }) => {
      const command = await api.command(id).catch(undefinedIfUnknown);
      if (command !== undefined) found.set(id, command);
    });
  } catch (error) {
    screen.say(`Reading back failed: ${(error as Error).message}`);
  }
  return found;
}

function undefinedIfUnknown(error: unknown): undefined {
  if (!(error instanceof ApiError && error.status === 404)) throw error;
}

/**
 * Counts one metric of every device: each acknowledged sample must be there, and none that was not sent. History may be a little behind
 * what was acknowledged, and is given time.
 */
export async function countReadings(
  api: OperatorApi,
  targets: readonly Target[],
  from: number,
  to: number,
  now: AbortSignal,
): Promise<ReadingsCheck> {
  let [acknowledged, sent, found] = [0, 0, 0];
  const mismatches: string[] = [];
  const countOne = async ({ device: { id, kind, samples } }: Target) => {
    const stored = [...samples.values()].filter((isStored) => isStored).length;
    const until = Date.now() + HISTORY_MS_MAX;
    let count = await api.countReadings(id, COUNTED_METRIC[kind], from, to);
    while (count < stored && Date.now() < until && !now.aborted) {
      await delay(500, now);
      count = await api.countReadings(id, COUNTED_METRIC[kind], from, to);
    }
    acknowledged += stored;
    sent += samples.size;
    found += count;
    if (count < stored || count > samples.size) {
      mismatches.push(`${id}: ${stored} of ${samples.size} samples were acknowledged, ${count} are stored`);
    }
  };
  await atOnce(READS_AT_ONCE, targets, countOne).catch((error: Error) =>
    mismatches.push(`samples could not be counted: ${error.message}`),
  );
  return { acknowledged, sent, found, mismatches };
}
