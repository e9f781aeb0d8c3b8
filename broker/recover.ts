import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../devices/clock.ts';
import { OPEN_STATES, type Command } from '../devices/command.ts';
import { isDeviceId } from '../devices/device.ts';
import { isUuidV7 } from '../devices/uuid-v7.ts';
import { commandChanges, openCommands } from './commands/command-store.ts';
import { StartError } from './data-folder.ts';
import type { History } from './store/history.ts';
import type { Change, State } from './store/state.ts';

/**
 * After the State folder was lost (`--recover`): the open commands are built again from their rows in History. What History does not
 * have cannot be: tokens, keys, labels and schedules, and what the lost journal had not shipped yet.
 */
export type Recovered = { readonly commands: number; readonly devices: readonly string[]; readonly devicesFile: string };

/** There from the first commit to the last, so that a recovery which was cut short can be started again. */
const GOING_ON_KEY = 'meta/recovering';
const ROWS_A_PAGE = 1_000;
const COMMITTED_AT_ONCE = 500;
const DEVICES_MAX = 1_000_000;
const DEVICES_FILE = 'recovered-devices.txt';
const LATEST_NS = 2n ** 63n - 2n;

/** Throws StartError when State has open commands (it is not lost then), or History cannot be asked. */
export async function recoverState(state: State, history: History, clock: Clock, dataDir: string): Promise<Recovered> {
  const isGoingOn = (await state.get(GOING_ON_KEY)) !== undefined;
  for await (const [open] of openCommands(state)) {
    if (isGoingOn) break;
    if (open === undefined) continue;
    throw new StartError(
      `--recover is for a State folder that was lost, and this one has open commands (such as ${open.id}); start without it`,
    );
  }
  const now = clock.now();
  try {
    const ids = new Set<string>();
    const devices = new Set<string>();
    let changes: Change[] = [{ put: GOING_ON_KEY, value: 'true' }];
    for await (const row of openRows(history)) {
      if (ids.has(row.id) || !isWhole(row)) continue;
      ids.add(row.id);
      devices.add(row.deviceId);
      changes.push(...commandChanges(asOpen(row, now)));
      if (changes.length < COMMITTED_AT_ONCE) continue;
      await state.commit(changes, []);
      changes = [];
    }
    await state.commit([...changes, { del: GOING_ON_KEY }], []);
    for (const id of await history.devices(DEVICES_MAX)) devices.add(id);
    const sorted = [...devices].toSorted();
    const devicesFile = join(dataDir, DEVICES_FILE);
    await writeFile(devicesFile, sorted.map((id) => `${id}\n`).join(''), { mode: 0o600 });
    return { commands: ids.size, devices: sorted, devicesFile };
  } catch (error) {
    throw new StartError(`--recover could not be finished, start it again: ${(error as Error).message}`);
  }
}

/** The report for people. */
export function recoveryReport({ commands, devices, devicesFile }: Recovered): string {
  return `
Recovered from History
  Built again    ${commands} open commands; a device that has carried one out and is handed it again knows it by its id
  Lost           the devices' tokens, labels and schedules; operators' keys; Idempotency-Keys; lists of rejects and quarantine;
                 readings and steps of commands that were acknowledged but not yet in History
  How to go on   register each device again (POST /v1/devices): its commands wait for it under its id; give it the new token
                 make operators' keys again (POST /v1/keys); the admin key is the one below
  Devices        ${devices.length} are known from readings and commands; their ids are in ${devicesFile}
`;
}

/** Newest first. Rows with one time come in no order of note, so a page begins at the time the last one ended with; the caller skips repeats. */
async function* openRows(history: History): AsyncIterable<Command> {
  let toNs = LATEST_NS;
  let limit = ROWS_A_PAGE;
  for (;;) {
    const rows = await history.commands({ states: OPEN_STATES, fromNs: 0n, toNs, limit });
    yield* rows;
    const last = rows.at(-1);
    if (last === undefined || rows.length < limit) return;
    const next = BigInt(last.historyNs) + 1n;
    // All of the page may have one time.
    if (next >= toNs) limit *= 2;
    else limit = ROWS_A_PAGE;
    toNs = next;
  }
}

/** What the state machine cannot do without. */
function isWhole(row: Partial<Command>): boolean {
  const { id = '', deviceId = '', queuedAt, priority, confirm, maxAttempts, reportTimeoutSeconds } = row;
  const isNumbered = [queuedAt, maxAttempts, reportTimeoutSeconds].every((value) => typeof value === 'number');
  return isUuidV7(id) && isDeviceId(deviceId) && isNumbered && priority !== undefined && confirm !== undefined;
}

/** Deadlines of hand-overs and reports are State's alone: a hand-over has lapsed, a report has its whole time again. */
function asOpen(row: Command, now: number): Command {
  const command: Command = { ...row, attempts: row.attempts ?? 0, wakes: row.wakes ?? 0 };
  switch (command.state) {
    case 'sent':
      return { ...command, leaseUntil: now };
    case 'delivered':
    case 'running':
      return { ...command, reportBy: now + command.reportTimeoutSeconds * 1_000 };
    default:
      return command;
  }
}
