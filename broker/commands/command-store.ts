import { isEnded, type Command } from '../../devices/command.ts';
import { DAY_MS } from '../../devices/clock.ts';
import { uuidV7Ms } from '../../devices/uuid-v7.ts';
import type { Change, State } from '../store/state.ts';
import { manyValuesUnder, valueAt, valuesUnder } from '../store/values.ts';

/**
 * Where commands stand in State: open ones under `command/{id}`; ended ones for a week under `ended/{id}`, with `ended-of/{device}/{id}`
 * beside it, since a device's late word may still come and History may be behind.
 */
export const ENDED_KEPT_MS = 7 * DAY_MS;

const OPEN = 'command/';
const ENDED = 'ended/';
const ENDED_OF = 'ended-of/';
const SWEPT_PER_COMMIT = 500;

/** The changes that bring State to `command` as it now is. */
export function commandChanges(command: Command): Change[] {
  const value = (): string => JSON.stringify(command);
  if (!isEnded(command)) return [{ put: OPEN + command.id, value }];
  return [
    { del: OPEN + command.id },
    { put: ENDED + command.id, value },
    { put: `${ENDED_OF}${command.deviceId}/${command.id}`, value: '1' },
  ];
}

/** Many at a time. */
export function openCommands(state: State): AsyncIterable<readonly Command[]> {
  return manyValuesUnder<Command>(state, OPEN);
}

export async function endedCommand(state: State, id: string): Promise<Command | undefined> {
  return valueAt<Command>(state, ENDED + id);
}

/** Ended commands of a device that State still has, newest first, those issued before `beforeId`. */
export async function* endedCommandsOf(state: State, deviceId: string, beforeId?: string): AsyncIterable<Command> {
  const prefix = `${ENDED_OF}${deviceId}/`;
  for await (const [key] of state.scan(prefix, { reverse: true, ...(beforeId !== undefined && { after: prefix + beforeId }) })) {
    const command = await endedCommand(state, key.slice(prefix.length));
    if (command !== undefined) yield command;
  }
}

/** Forgets ended commands whose week is over. Issue order stands in for the order of ending. */
export async function sweepEnded(state: State, now: number): Promise<number> {
  let swept = 0;
  let changes: Change[] = [];
  for await (const [key, command] of valuesUnder<Command>(state, ENDED)) {
    const id = key.slice(ENDED.length);
    if (uuidV7Ms(id) > now - ENDED_KEPT_MS) break;
    if ((command.finishedAt ?? 0) > now - ENDED_KEPT_MS) continue;
    changes.push({ del: key }, { del: `${ENDED_OF}${command.deviceId}/${id}` });
    swept += 1;
    if (changes.length >= SWEPT_PER_COMMIT) {
      await state.commit(changes, []);
      changes = [];
    }
  }
  if (changes.length > 0) await state.commit(changes, []);
  return swept;
}
