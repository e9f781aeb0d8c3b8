import { LevelState } from '../broker/store/level/level-state.ts';
import { commandChanges, openCommands } from '../broker/commands/command-store.ts';
import { prepareDataFolder, stateFolder } from '../broker/data-folder.ts';
import { DeviceRegistry } from '../broker/registry/device-registry.ts';
import { SecretDigests } from '../broker/registry/secrets.ts';
import type { Change } from '../broker/store/state.ts';
import type { Command } from '../devices/command.ts';
import { DAY_MS } from '../devices/clock.ts';
import { uuidV7Source } from '../devices/uuid-v7.ts';
import type { Device } from './target.ts';

/** Fills a data folder before the server starts: thousands of devices and a million commands through the API would take longer than the benchmark. */
const clock = { now: () => Date.now() };
const JOURNAL_BYTES_MAX = 1024 ** 3;
const COMMANDS_A_COMMIT = 2_000;

/** Registers devices, and spreads `openCount` queued commands over them evenly. */
export async function seedState(dataDir: string, deviceCount: number, openCount = 0): Promise<Device[]> {
  await prepareDataFolder(dataDir);
  return withState(dataDir, async (state) => {
    const registry = new DeviceRegistry(state, await SecretDigests.open(state), clock);
    const ids = Array.from({ length: deviceCount }, (_, i) => `bench-${i}`);
    const devices = await Promise.all(ids.map(async (id) => ({ id, token: (await registry.create({ id })).token })));
    const newId = uuidV7Source(clock);
    let changes: Change[] = [];
    for (let n = 0; n < openCount; n += 1) {
      const device = ids[deviceIndex(n, deviceCount, openCount)] ?? '';
      changes.push(...commandChanges(queuedCommand(newId(), device, n)));
      if (changes.length < COMMANDS_A_COMMIT) continue;
      await state.commit(changes, []);
      changes = [];
    }
    await state.commit(changes, []);
    return devices;
  });
}

/** Gives all open commands one deadline. */
export async function setDeadlines(dataDir: string, expiresAt: number): Promise<void> {
  await withState(dataDir, async (state) => {
    let changes: Change[] = [];
    for await (const commands of openCommands(state)) {
      for (const { leaseUntil: _, ...command } of commands)
        changes.push(...commandChanges({ ...command, state: 'queued', expiresAt }));
      if (changes.length < COMMANDS_A_COMMIT) continue;
      await state.commit(changes, []);
      changes = [];
    }
    await state.commit(changes, []);
  });
}

/** Which device the nth command is for: all of them in turn, or with fewer commands than devices some, evenly apart. */
export function deviceIndex(n: number, deviceCount: number, openCount: number): number {
  return openCount < deviceCount ? Math.floor((n * deviceCount) / openCount) : n % deviceCount;
}

function queuedCommand(id: string, deviceId: string, n: number): Command {
  const now = clock.now();
  return {
    id,
    deviceId,
    name: 'set_interval',
    params: { seconds: 60, jitter: n % 10 },
    priority: 'normal',
    confirm: 'result',
    expiresAt: now + DAY_MS,
    reportTimeoutSeconds: 300,
    maxAttempts: 10,
    queuedAt: now,
    historyNs: (BigInt(now) * 1_000_000n + BigInt(n)).toString(),
    state: 'queued',
    attempts: 0,
    wakes: 0,
  };
}

async function withState<T>(dataDir: string, work: (state: LevelState) => Promise<T>): Promise<T> {
  const state = await LevelState.open({ folder: stateFolder(dataDir), journalBytesMax: JOURNAL_BYTES_MAX, clock });
  try {
    return await work(state);
  } finally {
    await state.close();
  }
}
