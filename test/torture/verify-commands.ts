import type { Operator } from './operator.ts';
import { groupBy, type IssuedCommand, type Records } from './records.ts';

/** Every command that was acknowledged is there, once a key, in the state that its device and its operator know of. */
const PAGE = 1_000;
const ENDS = new Set(['succeeded', 'failed', 'rejected', 'cancelled', 'superseded']);

export type StoredCommand = {
  readonly id: string;
  readonly state: string;
  readonly params?: { readonly order?: string };
  readonly result?: { readonly done?: string };
  readonly supersededBy?: string;
};

export type CommandTally = {
  issued: number;
  acknowledged: number;
  found: number;
  reports: number;
  cancels: number;
  /** Handed over more than once, which is allowed until the report is acknowledged. */
  handedOverAgain: number;
  readonly byState: Map<string, number>;
};

export async function verifyCommands(records: Records, operator: Operator, faults: string[]): Promise<CommandTally> {
  const byState = new Map<string, number>();
  const tally: CommandTally = { issued: 0, acknowledged: 0, found: 0, reports: 0, cancels: 0, handedOverAgain: 0, byState };
  for (const [deviceId, issued] of groupBy(records.commands, (command) => command.deviceId)) {
    const stored = await storedCommands(operator, deviceId);
    const byOrder = groupBy(stored, ({ params }) => params?.order ?? '');
    for (const command of issued) {
      tally.issued += 1;
      const inList = byOrder.get(command.idempotencyKey) ?? [];
      byOrder.delete(command.idempotencyKey);
      if (inList.length > 1)
        faults.push(`key ${command.idempotencyKey}: ${inList.length} commands, ${inList.map(({ id }) => id).join(', ')}`);
      await verifyCommand(command, inList[0], { records, operator, faults, tally });
    }
    for (const order of byOrder.keys())
      faults.push(`a command of ${deviceId} for ${order || 'no order'}: stored, but never issued`);
  }
  for (const { commandId, handOvers, handOversAfterEnd } of records.executions.values()) {
    if (handOvers > 1) tally.handedOverAgain += 1;
    if (handOversAfterEnd > 0)
      faults.push(`command ${commandId}: handed over ${handOversAfterEnd} times after its report was acknowledged`);
  }
  return tally;
}

type Parts = { records: Records; operator: Operator; faults: string[]; tally: CommandTally };

async function verifyCommand(command: IssuedCommand, stored: StoredCommand | undefined, parts: Parts): Promise<void> {
  const { records, operator, faults, tally } = parts;
  const { idempotencyKey, ids, cancel } = command;
  if (ids.size === 0) return;
  tally.acknowledged += 1;
  await operator.issue(command);
  if (ids.size > 1) faults.push(`key ${idempotencyKey}: answered with ${[...ids].join(', ')}`);
  const [id = ''] = ids;
  const answer = await operator.ask('GET', `/v1/commands/${id}`);
  const shown = answer.body as StoredCommand;
  if (answer.status !== 200 || stored === undefined) {
    faults.push(
      `command ${id} of key ${idempotencyKey}: acknowledged, and not there (${answer.status}; listed: ${stored !== undefined})`,
    );
    return;
  }
  tally.found += 1;
  const { state } = shown;
  tally.byState.set(state, (tally.byState.get(state) ?? 0) + 1);
  const name = `command ${id} of ${command.deviceId}`;
  if (stored.id !== id || stored.state !== state)
    faults.push(`${name}: shown as ${state}, listed as ${stored.id} ${stored.state}`);
  if (!ENDS.has(state)) faults.push(`${name}: it is ${state} at the end`);
  if (cancel === 'done') tally.cancels += 1;
  if (cancel === 'done' && state !== 'cancelled') faults.push(`${name}: its cancel was acknowledged, and it is ${state}`);
  if (state === 'cancelled' && cancel === 'none') faults.push(`${name}: cancelled, and nobody asked for that`);
  if (state === 'cancelled' && cancel === 'refused') faults.push(`${name}: cancelled, and that was refused`);
  if (state === 'superseded' && (command.body['key'] === undefined || shown.supersededBy === undefined))
    faults.push(`${name}: superseded without cause`);
  const execution = records.executions.get(id);
  if (execution === undefined) {
    if (state !== 'cancelled' && state !== 'superseded') faults.push(`${name}: ${state}, and its device never had it`);
    return;
  }
  if (!execution.isAcknowledged) return;
  tally.reports += 1;
  // A report that came after the end was refused; over MQTT the word of that may be lost with the server.
  const mayBeRefused = execution.isRefused || execution.deviceId.startsWith('push');
  if ((state === 'cancelled' || state === 'superseded') && mayBeRefused) return;
  if (state !== execution.state) faults.push(`${name}: reported ${execution.state}, acknowledged, and it is ${state}`);
  if (state === 'succeeded' && shown.result?.done !== id) faults.push(`${name}: its result is ${JSON.stringify(shown.result)}`);
}

async function storedCommands(operator: Operator, deviceId: string): Promise<StoredCommand[]> {
  const found: StoredCommand[] = [];
  let cursor: string | undefined;
  do {
    const after = cursor === undefined ? '' : `&cursor=${cursor}`;
    const answer = await operator.ask('GET', `/v1/devices/${deviceId}/commands?limit=${PAGE}${after}`);
    if (answer.status !== 200) throw new Error(`commands of ${deviceId} were answered with ${answer.status}`);
    const page = answer.body as { commands: StoredCommand[]; cursor?: string };
    found.push(...page.commands);
    cursor = page.cursor;
  } while (cursor !== undefined);
  return found;
}
