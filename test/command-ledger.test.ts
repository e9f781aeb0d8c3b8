import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { CommandLedger } from '../broker/commands/command-ledger.ts';
import { LiveEvents } from '../broker/live-events.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { TimeMark } from '../broker/time-mark.ts';
import type { Command } from '../devices/command.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { commandOf } from './history-fixtures.ts';

/** The order of commits, and what a crash between them leaves. */
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

test('a crash before a newer command took the place of older ones is made good at the next start, with the links both ways', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'downlink-test-'));
  const start = async (): Promise<{ state: LevelState; ledger: CommandLedger }> => {
    const state = await LevelState.open({ folder, journalBytesMax: 1024 * 1024, clock });
    const ledger = new CommandLedger(state, new LiveEvents('run', clock), clock, await TimeMark.load(state));
    await ledger.load();
    return { state, ledger };
  };
  const now = Date.now();
  const keyed = (key: string, changes: Partial<Command> = {}): Command => commandOf('d', { key, queuedAt: now, ...changes });
  let { state, ledger } = await start();
  const [oldest, sent, delivered, newest] = [keyed('k'), keyed('k'), keyed('k'), keyed('k')];
  const other = keyed('other');
  for (const command of [oldest, sent, delivered, newest, other]) await ledger.add(command, []);
  await ledger.step(sent.id, { type: 'lease', transport: 'http', leaseMs: 60_000, handover: ledger.nextHandover() }).durable;
  await ledger.step(delivered.id, { type: 'confirm', transport: 'http' }).durable;
  await ledger.close();
  await state.close();

  ({ state, ledger } = await start());
  expect(await ledger.find(oldest.id)).toMatchObject({ state: 'superseded', supersededBy: newest.id });
  expect(await ledger.find(sent.id)).toMatchObject({ state: 'sent', supersededBy: newest.id });
  expect(await ledger.find(newest.id)).toMatchObject({ state: 'queued', supersedes: [oldest.id] });
  expect(await ledger.find(delivered.id)).not.toHaveProperty('supersededBy');
  expect(await ledger.find(other.id)).toEqual(other);
  await ledger.step(sent.id, { type: 'lapse' }).durable;
  await ledger.close();
  await state.close();

  ({ state, ledger } = await start());
  expect(await ledger.find(sent.id)).toMatchObject({ state: 'superseded', supersededBy: newest.id });
  expect(await ledger.find(newest.id)).toMatchObject({ supersedes: [oldest.id, sent.id] });
  await ledger.close();
  await state.close();
  await rm(folder, { recursive: true });
});

test('who took whose place is written at both ends as one, whenever the disk fails', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'downlink-test-'));
  const state = await LevelState.open({ folder, journalBytesMax: 1024 * 1024, clock });
  const ledger = new CommandLedger(state, new LiveEvents('run', clock), clock, await TimeMark.load(state));
  const [older, newer] = [commandOf('d', { key: 'k' }), commandOf('d', { key: 'k' })];
  for (const command of [older, newer]) await ledger.add(command, []);
  const { durable } = ledger.step(older.id, { type: 'supersede', by: newer.id });
  // As it is on the disk at any moment: both or neither.
  const isEnded = async (): Promise<boolean> => (await state.get(`ended/${older.id}`)) !== undefined;
  const isLinked = async (): Promise<boolean> => (await state.get(`command/${newer.id}`))?.includes(older.id) ?? false;
  for (;;) {
    const wasEnded = await isEnded();
    const linked = await isLinked();
    // The batch may have come between the two looks.
    if ((await isEnded()) !== wasEnded) continue;
    expect(linked).toBe(wasEnded);
    if (wasEnded) break;
  }
  await durable;
  await ledger.close();
  await state.close();
  await rm(folder, { recursive: true });
});
