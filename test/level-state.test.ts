import { cp, mkdtemp, readdir, rm, stat, symlink, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { LevelState } from '../broker/store/level/level-state.ts';

/** A log ends before it is this long. */
const LOG_MB_MAX = 64;

let folder: string;
let state: LevelState;

const open = (journalBytesMax = 1_000_000): Promise<LevelState> =>
  LevelState.open({ folder, journalBytesMax, clock: { now: () => 1_800_000_000_000 } });

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-state-'));
  state = await open();
});

afterEach(async () => {
  await state.close();
  await rm(folder, { recursive: true });
});

async function keysOf(prefix: string, options?: { after?: string; reverse?: boolean }): Promise<string[]> {
  const keys: string[] = [];
  for await (const [key] of state.scan(prefix, options)) keys.push(key);
  return keys;
}

describe('changes', () => {
  test('are there after a restart, deletions too', async () => {
    await state.commit(
      [
        { put: 'a/1', value: '1' },
        { put: 'a/2', value: '2' },
      ],
      [],
    );
    await state.commit([{ del: 'a/1' }, { put: 'b/1', value: '3' }], []);
    await state.close();
    state = await open();
    expect(await keysOf('a/')).toEqual(['a/2']);
    expect(await state.get('b/1')).toBe('3');
    expect(await state.get('a/1')).toBeUndefined();
  });

  test('commits resolve in the order they were made, the empty one last of those before it', async () => {
    const order: number[] = [];
    await Promise.all([
      state.commit([{ put: 'x', value: '1' }], []).then(() => order.push(1)),
      state.commit([], ['m f=1 1']).then(() => order.push(2)),
      state.commit([], []).then(() => order.push(3)),
    ]);
    expect(order).toEqual([1, 2, 3]);
  });

  test('scan goes either way, from a key on', async () => {
    await state.commit(
      ['k/1', 'k/2', 'k/3', 'l/1'].map((put) => ({ put, value: 'v' })),
      [],
    );
    expect(await keysOf('k/', { after: 'k/1' })).toEqual(['k/2', 'k/3']);
    expect(await keysOf('k/', { reverse: true })).toEqual(['k/3', 'k/2', 'k/1']);
    expect(await keysOf('k/', { reverse: true, after: 'k/3' })).toEqual(['k/2', 'k/1']);
  });

  test('a second process is refused the folder', async () => {
    await expect(open()).rejects.toMatchObject({ cause: { code: 'LEVEL_LOCKED' } });
  });

  test('a commit after close is refused', async () => {
    await state.close();
    await expect(state.commit([{ put: 'x', value: '1' }], [])).rejects.toMatchObject({ code: 'shutting_down' });
    state = await open();
  });
});

describe('what is committed in one turn', () => {
  const turn = (): Promise<unknown> =>
    Promise.all([
      state.commit([{ put: 'turn/1', value: '1' }], ['m f=1 1']),
      state.commit([{ put: 'turn/2', value: '2' }], ['m f=2 2'], 'exempt'),
      state.commit([{ del: 'before' }], []),
    ]);
  const logOf = async (of: string): Promise<string> => join(of, (await readdir(of)).find((name) => name.endsWith('.log')) ?? '');

  test.each(['while nothing is written', 'while a batch is being written'])(
    'is there whole or not at all, wherever the log ends: %s',
    async (when) => {
      await state.commit([{ put: 'before', value: '0' }], []);
      const log = await logOf(folder);
      const { size: from } = await stat(log);
      const inFlight = when === 'while a batch is being written';
      const first = inFlight ? state.commit([{ put: 'first', value: '1' }], ['m f=0 0']) : undefined;
      if (inFlight) await new Promise(setImmediate);
      await turn();
      await first;
      const { size: to } = await stat(log);
      const seen = new Set<number>();
      const cuts = Array.from({ length: 21 }, (_, i) => from + Math.floor(((to - from) * i) / 20));
      for (const end of cuts) {
        const copy = await mkdtemp(join(tmpdir(), 'downlink-state-'));
        await cp(folder, copy, { recursive: true });
        await truncate(await logOf(copy), end);
        const cut = await LevelState.open({ folder: copy, journalBytesMax: 1_000_000, clock: { now: () => 1_800_000_000_000 } });
        const lines = (await cut.journal.read(0, 1_000_000))?.lines.toString() ?? '';
        const there = [
          (await cut.get('turn/1')) === '1',
          (await cut.get('turn/2')) === '2',
          (await cut.get('before')) === undefined,
          lines.includes('m f=1 1'),
          lines.includes('m f=2 2'),
        ].filter(Boolean).length;
        seen.add(there);
        await cut.close();
        await rm(copy, { recursive: true });
      }
      expect([...seen]).toEqual([0, 5]);
    },
  );

  test('can be asked for room first', async () => {
    await state.close();
    state = await open(1_000);
    const row = 'x'.repeat(600);
    state.assertRoom([row]);
    const taken = state.commit([], [row]);
    expect(() => state.assertRoom([row])).toThrow(expect.objectContaining({ code: 'journal_full' }) as Error);
    await taken;
    expect(() => state.assertRoom([row])).toThrow(expect.objectContaining({ code: 'journal_full' }) as Error);
    state.assertRoom([]);
    await state.close();
    expect(() => state.assertRoom([])).toThrow(expect.objectContaining({ code: 'shutting_down' }) as Error);
    state = await open();
  });
});

describe('what is written together', () => {
  test('has one value a key and one row a thing, the last, and makes no others', async () => {
    const made: string[] = [];
    const make = (text: string) => (): string => {
      made.push(text);
      return text;
    };
    await Promise.all([
      state.commit([{ put: 'k', value: make('sent') }], [{ of: 'c1', row: make('c state="sent" 1') }, 'e to="sent" 2']),
      state.commit([{ put: 'k', value: make('failed') }], [{ of: 'c1', row: make('c state="failed" 1') }, 'e to="failed" 3']),
      state.commit([{ put: 'gone', value: make('gone') }], []),
      state.commit([{ del: 'gone' }], []),
    ]);
    expect(made.toSorted()).toEqual(['c state="failed" 1', 'failed']);
    expect(await state.get('k')).toBe('failed');
    expect(await state.get('gone')).toBeUndefined();
    const lines = (await state.journal.read(0, 1_000))?.lines.toString();
    expect(lines?.split('\n').toSorted()).toEqual(['', 'c state="failed" 1', 'e to="failed" 3', 'e to="sent" 2']);
  });

  test('takes along what rides, which otherwise goes by itself in a while, and at a stop', async () => {
    const order: string[] = [];
    const rides = state.ride([{ put: 'ride/1', value: '1' }], ['m f=1 1']).then(() => order.push('rides'));
    await state.commit([], ['m f=2 2']).then(() => order.push('commit'));
    await rides;
    expect(order).toEqual(['rides', 'commit']);
    expect(state.journal.head).toBe(1);
    await state.ride([{ put: 'ride/2', value: '2' }], []);
    expect(await state.get('ride/2')).toBe('2');
    void state.ride([{ put: 'ride/3', value: '3' }], []);
    await state.close();
    state = await open();
    expect(await keysOf('ride/')).toEqual(['ride/1', 'ride/2', 'ride/3']);
  });
});

describe('what lingers', () => {
  const leased = (): Promise<void> =>
    state.linger([{ put: 'command/1', value: 'sent' }], [{ of: '1', row: () => 'c state="sent" 1' }, 'e to="sent" 2'], '1');
  const lines = async (): Promise<string[]> =>
    ((await state.journal.read(0, 1_000))?.lines.toString() ?? '').split('\n').toSorted();

  test('is written with the next commit of the same thing, which takes its place, and is told of before it', async () => {
    const order: string[] = [];
    const lingering = leased().then(() => order.push('sent'));
    await state.commit([], ['other 1'], 'exempt', '2').then(() => order.push('other'));
    await state
      .commit([{ put: 'command/1', value: 'done' }], [{ of: '1', row: () => 'c state="done" 1' }], 'exempt', '1')
      .then(() => order.push('done'));
    await lingering;
    expect(order).toEqual(['other', 'sent', 'done']);
    expect(await state.get('command/1')).toBe('done');
    expect(await lines()).toEqual(['', 'c state="done" 1', 'e to="sent" 2', 'other 1']);
  });

  test('is written with an empty commit of the same thing, by itself after a while, and at a stop', async () => {
    void leased();
    await state.commit([], [], 'exempt', '1');
    expect(await state.get('command/1')).toBe('sent');
    await state.linger([{ put: 'command/2', value: 'sent' }], [], '2');
    expect(await state.get('command/2')).toBe('sent');
    void state.linger([{ put: 'command/3', value: 'sent' }], [], '3');
    await state.close();
    state = await open();
    expect(await keysOf('command/')).toEqual(['command/1', 'command/2', 'command/3']);
  });
});

describe('what is urgent', () => {
  test('goes on before what is written with it, and after what was written before', async () => {
    const order: string[] = [];
    const told = (name: string) => (): number => order.push(name);
    const first = state.commit([], ['m f=1 1']).then(told('first'));
    await new Promise(setImmediate);
    await Promise.all([
      first,
      state.commit([], ['m f=2 2'], 'relaxed').then(told('relaxed')),
      state.commit([], ['m f=3 3'], 'bounded').then(told('bounded')),
      state.commit([{ put: 'c', value: '1' }], ['m f=4 4'], 'urgent').then(told('urgent')),
    ]);
    expect(order).toEqual(['first', 'urgent', 'relaxed', 'bounded']);
  });

  test('is written after what came before it, however soon it follows', async () => {
    const rows: string[] = [];
    for (let i = 0; i < 1_000; i += 1) {
      rows.push(`m f=${i} ${2 * i}`, `m f=${i} ${2 * i + 1}`);
      const before = state.commit([{ put: 'k', value: `before ${i}` }], rows.slice(-2, -1));
      await new Promise(setImmediate);
      await Promise.all([before, state.commit([{ put: 'k', value: `urgent ${i}` }], rows.slice(-1), 'urgent')]);
      expect(await state.get('k')).toBe(`urgent ${i}`);
    }
    expect((await state.journal.read(0, 1_000_000))?.lines.toString()).toBe(`${rows.join('\n')}\n`);
  });

  test('is refused with all that came after what could not be written', async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 20 }, async (_, i) => {
        await new Promise((resolve) => setTimeout(resolve, i));
        const value = (): string => {
          if (i === 5) throw new Error('the disk is gone');
          return '1';
        };
        await state.commit([{ put: `k/${i}`, value }], [], i % 2 === 0 ? 'bounded' : 'urgent');
      }),
    );
    expect(outcomes[5]?.status).toBe('rejected');
    const taken = outcomes.flatMap(({ status }, i) => (status === 'fulfilled' ? [`k/${i}`] : []));
    const there = new Set(await keysOf('k/'));
    expect(taken.filter((key) => !there.has(key))).toEqual([]);
  });
});

describe('what is relaxed', () => {
  test('waits for others while the disk has nothing to do', async () => {
    const one = state.commit([], ['m f=1 1'], 'relaxed');
    await new Promise(setImmediate);
    const two = state.commit([], ['m f=2 2'], 'relaxed');
    await Promise.all([one, two]);
    expect(state.journal.head).toBe(1);
  });
});

describe('a commit', () => {
  // LevelDB writes its next log into a device that takes every write and refuses to sync (EINVAL).
  test.runIf(process.platform === 'linux')('is not acknowledged before it is synced', async () => {
    const log = (await readdir(folder)).find((name) => name.endsWith('.log')) ?? '';
    for (let n = 1; n <= 20; n += 1) {
      const number = String(Number.parseInt(log, 10) + n).padStart(6, '0');
      await symlink('/dev/null', join(folder, `${number}.log`));
    }
    const value = JSON.stringify('x'.repeat(1024 * 1024));
    const fill = async (): Promise<void> => {
      for (let i = 0; i < LOG_MB_MAX; i += 1) await state.commit([{ put: `fill/${i}`, value }], []);
    };
    await expect(fill()).rejects.toMatchObject({
      code: 'storage_unavailable',
      message: expect.stringContaining('Invalid argument'),
    });
  });
});

describe('the journal', () => {
  const text = async (after: number, bytesMax = 1_000_000): Promise<string | undefined> =>
    (await state.journal.read(after, bytesMax))?.lines.toString();

  test('gives back what was appended, in order, across a restart', async () => {
    await state.commit([], ['m f=1 1', 'm f=2 2']);
    await state.commit([], ['m f=3 3']);
    await state.close();
    state = await open();
    await state.commit([], ['m f=4 4']);
    expect(await text(0)).toBe('m f=1 1\nm f=2 2\nm f=3 3\nm f=4 4\n');
  });

  test('reads a record at least, and no more than asked for beyond that', async () => {
    await state.commit([], ['first']);
    await state.commit([], ['second']);
    const one = await state.journal.read(0, 1);
    expect(one?.lines.toString()).toBe('first\n');
    expect(await text(one?.through ?? 0)).toBe('second\n');
  });

  test('forgets what was trimmed, and counts its octets', async () => {
    await state.commit([], ['é']);
    await state.commit([], ['later']);
    expect(state.journal.bytes).toBe(3 + 6);
    const first = await state.journal.read(0, 1);
    await state.journal.trim(first?.through ?? 0);
    expect(state.journal.bytes).toBe(6);
    await state.close();
    state = await open();
    expect(state.journal.bytes).toBe(6);
    expect(await text(0)).toBe('later\n');
  });

  test('forgets what was read, while more is appended and read', async () => {
    let through = 0;
    for (let i = 1; i <= 50; i += 1) {
      await state.commit([], [`m f=${i} ${i}`]);
      if (i % 7 !== 0) continue;
      const read = await state.journal.read(through, 30);
      through = read?.through ?? through;
      if (i % 2 === 0) await state.journal.trim(through);
    }
    await state.journal.trim(through);
    const left = await text(0);
    expect(state.journal.bytes).toBe(left?.length);
    expect(left?.split('\n')[0]).toBe(`m f=${through + 1} ${through + 1}`);
    await state.close();
    state = await open();
    expect(await text(0)).toBe(left);
    expect(state.journal.bytes).toBe(left?.length);
  });

  test('counts its octets right after trims that could not be written', async () => {
    for (const row of ['one', 'second', 'the third']) await state.commit([], [row]);
    const first = (await state.journal.read(0, 1))?.through ?? 0;
    const second = (await state.journal.read(first, 1))?.through ?? 0;
    const value = (): string => {
      throw new Error('the disk is gone');
    };
    const failing = [state.commit([{ put: 'k', value }], []), state.journal.trim(first)];
    expect((await Promise.allSettled(failing)).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    const trimAndCheck = async (): Promise<void> => {
      state.journal.trim(second).catch(() => {});
      await state.check();
    };
    await vi.waitFor(trimAndCheck, { timeout: 10_000, interval: 2 });
    expect(state.journal.bytes).toBe((await text(0))?.length);
    await state.journal.trim(second);
    expect(await text(0)).toBe('the third\n');
    expect(state.journal.bytes).toBe('the third\n'.length);
    await state.close();
    state = await open();
    expect(state.journal.bytes).toBe('the third\n'.length);
  });

  test('at its bound refuses new entries with journal_full, and takes them again after a trim', async () => {
    await state.close();
    state = await open(1_000);
    const row = 'x'.repeat(600);
    await state.commit([], [row]);
    await expect(state.commit([{ put: 'lost', value: '1' }], [row])).rejects.toMatchObject({
      code: 'journal_full',
      retryAfterSeconds: 10,
    });
    expect(await state.get('lost')).toBeUndefined();
    await state.commit([], [row], 'exempt');
    await state.journal.trim(state.journal.head);
    await state.commit([], [row]);
    expect(state.journal.bytes).toBe(601);
  });

  test('tells its listener of each append', async () => {
    const appended = new Promise<void>((resolve) => state.journal.onAppend(resolve));
    await state.commit([], ['row']);
    await appended;
    expect(state.journal.oldestAt).toBe(1_800_000_000_000);
  });
});
