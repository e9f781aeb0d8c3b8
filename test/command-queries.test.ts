import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CommandIssuer } from '../broker/commands/issue-command.ts';
import { CommandLedger } from '../broker/commands/command-ledger.ts';
import { CommandQueries } from '../broker/commands/command-queries.ts';
import { LiveEvents } from '../broker/live-events.ts';
import { DeviceRegistry } from '../broker/registry/device-registry.ts';
import { PresenceTracker } from '../broker/registry/presence-tracker.ts';
import { SecretDigests } from '../broker/registry/secrets.ts';
import { LevelHistory } from '../broker/store/level/level-history.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { TimeMark } from '../broker/time-mark.ts';
import { uuidV7Source } from '../devices/uuid-v7.ts';

const clock = { now: () => Date.now() };
const ALL = { deviceId: 'd', fromNs: 0n, toNs: 2n ** 63n - 1n, limit: 10 };

let folder: string;
let state: LevelState;
let history: LevelHistory;
let ledger: CommandLedger;
let queries: CommandQueries;
let issue: (name: string) => Promise<string>;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-test-'));
  state = await LevelState.open({ folder: join(folder, 'state'), journalBytesMax: 1024 * 1024, clock });
  history = await LevelHistory.open(join(folder, 'history'));
  const events = new LiveEvents('run', clock);
  const registry = new DeviceRegistry(state, await SecretDigests.open(state), clock);
  const { device } = await registry.create({ id: 'd' });
  ledger = new CommandLedger(state, events, clock, await TimeMark.load(state));
  queries = new CommandQueries(ledger, state, history);
  const issuer = new CommandIssuer(
    ledger,
    new PresenceTracker(registry, state, events, clock),
    state,
    clock,
    uuidV7Source(clock),
  );
  issue = async (name) => (await issuer.issue(device, { name })).command.id;
});

afterEach(async () => {
  await ledger.close();
  await history.close();
  await state.close();
  await rm(folder, { recursive: true, force: true });
});

test('a command whose end is still being written is found, listed, and takes the same end again', async () => {
  const id = await issue('x');
  const { durable } = ledger.step(id, { type: 'cancel', force: false });
  const [found, listed] = await Promise.all([queries.get(id), queries.list(ALL)]);
  expect(found.state).toBe('cancelled');
  expect(listed.commands.map((command) => [command.id, command.state])).toEqual([[id, 'cancelled']]);
  await durable;
  const again = ledger.step(found, { type: 'cancel', force: false });
  expect(again.command).toEqual(found);
});

test('a command that ends while the list is made is listed once', async () => {
  const id = await issue('x');
  const listing = queries.list(ALL);
  const { durable } = ledger.step(id, { type: 'cancel', force: false });
  expect((await listing).commands.map((command) => command.id)).toEqual([id]);
  await durable;
});
