import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { CommandLedger } from '../broker/commands/command-ledger.ts';
import { LiveEvents } from '../broker/live-events.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { TimeMark } from '../broker/time-mark.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { commandOf } from './history-fixtures.ts';

const clock = { now: () => Date.now() };

test('a step that the disk refused does not bring a command back that has ended since', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'downlink-test-'));
  const open = (): Promise<LevelState> => LevelState.open({ folder, journalBytesMax: 1024 * 1024, clock });
  const ledgerOn = async (on: LevelState): Promise<CommandLedger> =>
    new CommandLedger(on, new LiveEvents('run', clock), clock, await TimeMark.load(on));
  let state = await open();
  let ledger = await ledgerOn(state);
  const command = commandOf('d');
  await ledger.add(command, []);

  vi.spyOn(state, 'commit').mockRejectedValueOnce(new DownlinkError('storage_unavailable', 'no room'));
  const refused = ledger.step(command.id, { type: 'confirm', transport: 'mqtt' });
  await expect(refused.durable).rejects.toMatchObject({ code: 'storage_unavailable' });
  await ledger.step(command.id, { type: 'report', report: { state: 'succeeded' }, transport: 'mqtt' }).durable;
  expect(await ledger.find(command.id)).toMatchObject({ state: 'succeeded' });
  await ledger.close();
  await state.close();

  state = await open();
  ledger = await ledgerOn(state);
  await ledger.load();
  expect(ledger.book.size).toBe(0);
  expect(await ledger.find(command.id)).toMatchObject({ state: 'succeeded' });
  await ledger.close();
  await state.close();
  await rm(folder, { recursive: true });
});
