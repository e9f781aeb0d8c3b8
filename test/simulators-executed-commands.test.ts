import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseReport, type Report } from '../devices/report.ts';
import { CommandRunner } from '../simulators/client/command-runner.ts';
import { RejectedCommand, type ReceivedCommand } from '../simulators/client/device-client.ts';
import { ExecutedCommands } from '../simulators/client/executed-commands.ts';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-executed-'));
  path = join(folder, 'executed.json');
});

afterEach(() => rm(folder, { recursive: true, force: true }));

const succeeded: Report = { state: 'succeeded', result: { rpm: 5 } };

function command(name: string, id = name): ReceivedCommand {
  return { id, name, params: { n: 1 }, attempt: 1 };
}

describe('what was executed', () => {
  test('is known across a restart, with how it ended', async () => {
    const before = await ExecutedCommands.open(path);
    await before.begin('one');
    expect(before.state('one')).toBe('running');
    await before.finish('one', succeeded);
    const after = await ExecutedCommands.open(path);
    expect(after.state('one')).toEqual(succeeded);
    expect(after.state('two')).toBe('unknown');
    expect(after.unreported()).toEqual([['one', succeeded]]);
  });

  test('is not executed again when a restart interrupted it, but reported as failed', async () => {
    const before = await ExecutedCommands.open(path);
    await before.begin('one');
    const after = await ExecutedCommands.open(path);
    expect(after.state('one')).toMatchObject({ state: 'failed', message: expect.stringContaining('restart') as string });
    expect(after.unreported()).toHaveLength(1);
  });

  test('is not reported again once the server has the report', async () => {
    const before = await ExecutedCommands.open(path);
    await before.begin('one');
    await before.finish('one', succeeded);
    before.reported('one');
    await before.flush();
    const after = await ExecutedCommands.open(path);
    expect(after.state('one')).toEqual(succeeded);
    expect(after.unreported()).toEqual([]);
  });

  test('is bounded: the oldest that is done with is forgotten first', async () => {
    const executed = new ExecutedCommands({ entriesMax: 3 });
    for (const id of ['a', 'b', 'c']) {
      await executed.begin(id);
      await executed.finish(id, succeeded);
    }
    executed.reported('b');
    await executed.begin('d');
    expect(['a', 'b', 'c', 'd'].map((id) => executed.state(id) === 'unknown')).toEqual([false, true, false, false]);
    await executed.begin('e');
    expect(executed.state('a')).toBe('unknown');
    expect(executed.size).toBe(3);
  });

  test('stays whole when many commands are written at once, and leaves no other file', async () => {
    const executed = await ExecutedCommands.open(path);
    const ids = Array.from({ length: 50 }, (_, i) => `c${i}`);
    await Promise.all(ids.map((id) => executed.begin(id).then(() => executed.finish(id, succeeded))));
    const after = await ExecutedCommands.open(path);
    expect(ids.map((id) => after.state(id))).toEqual(ids.map(() => succeeded));
    expect(await readdir(folder)).toEqual(['executed.json']);
  });

  test('is kept with the cursor of the last answer', async () => {
    const before = await ExecutedCommands.open(path);
    before.cursor = 'abc';
    await before.begin('one');
    const after = await ExecutedCommands.open(path);
    expect(after.cursor).toBe('abc');
    expect((await ExecutedCommands.open(join(folder, 'another.json'))).cursor).toBeUndefined();
  });

  test('is on record before begin resolves', async () => {
    const executed = await ExecutedCommands.open(path);
    await executed.begin('one');
    expect(await readFile(path, 'utf8')).toContain('"one"');
  });

  test('a file that is something else is said to be', async () => {
    await writeFile(path, '{"commands":[{"report":5}]}');
    await expect(ExecutedCommands.open(path)).rejects.toThrow(`${path} is no record of executed commands`);
  });
});

describe('carrying out', () => {
  const reports: [string, Report][] = [];
  let runner: CommandRunner;
  let executed: ExecutedCommands;

  beforeEach(() => {
    reports.length = 0;
    executed = new ExecutedCommands();
    runner = new CommandRunner(executed, (id, report) => reports.push([id, report]));
  });

  test('what a handler returns, throws or refuses is reported as such', async () => {
    runner.handle('returns', ({ params }) => ({ got: params }));
    runner.handle('nothing', () => {});
    runner.handle('later', async () => Promise.resolve('done'));
    runner.handle('throws', () => {
      throw new Error('no water');
    });
    runner.handle('rejects', () => Promise.reject(new RejectedCommand('not now')));
    for (const name of ['returns', 'nothing', 'later', 'throws', 'rejects', 'unknown']) await runner.take(command(name));
    await runner.idle();
    expect(Object.fromEntries(reports)).toEqual({
      returns: { state: 'succeeded', result: { got: { n: 1 } } },
      nothing: { state: 'succeeded' },
      later: { state: 'succeeded', result: 'done' },
      throws: { state: 'failed', message: 'no water' },
      rejects: { state: 'rejected', message: 'not now' },
      unknown: { state: 'rejected', message: 'this device knows no command unknown' },
    });
  });

  test('whatever a handler throws becomes a report', async () => {
    const things: Record<string, unknown> = {
      text: 'no water',
      nothing: undefined,
      null: null,
      number: 7,
      object: { code: 5 },
      textless: Object.create(null) as unknown,
      long: 'x'.repeat(5_000),
      liar: Object.assign(new Error('x'), { message: { not: 'a text' } }),
    };
    for (const [name, thing] of Object.entries(things)) {
      runner.handle(`throws ${name}`, () => {
        throw thing as Error;
      });
      runner.handle(`rejects ${name}`, async () => {
        await Promise.resolve();
        throw thing as Error;
      });
    }
    for (const name of Object.keys(things)) for (const how of ['throws', 'rejects']) await runner.take(command(`${how} ${name}`));
    await runner.idle();
    expect(reports).toHaveLength(2 * Object.keys(things).length);
    for (const [, report] of reports) {
      expect(parseReport(JSON.parse(JSON.stringify(report)))).toMatchObject({
        state: 'failed',
        message: expect.any(String) as string,
      });
    }
    expect(Object.fromEntries(reports)['throws text']).toEqual({ state: 'failed', message: 'no water' });
  });

  test('progress that is no number is left out, and what is too long is cut', async () => {
    runner.handle('prime', (_command, { progress }) => progress(Number.NaN, 'x'.repeat(5_000)));
    await runner.take(command('prime'));
    await runner.idle();
    expect(reports[0]?.[1]).toEqual({ state: 'running', message: 'x'.repeat(1_024) });
  });

  test('one that ends only because the device stops is not reported, and is known as interrupted after a restart', async () => {
    const kept = await ExecutedCommands.open(path);
    const stopping = new CommandRunner(kept, (id, report) => reports.push([id, report]));
    stopping.handle(
      'endless',
      (_command, { signal }) =>
        new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('stopped')))),
    );
    await stopping.take(command('endless'));
    stopping.stop();
    await stopping.idle();
    expect(reports).toEqual([]);
    expect((await ExecutedCommands.open(path)).unreported()).toMatchObject([['endless', { state: 'failed' }]]);
  });

  test('one that ends well although the device stops is on record, and reported', async () => {
    runner.handle(
      'quick',
      (_command, { signal }) => new Promise((resolve) => signal.addEventListener('abort', () => resolve('saved'))),
    );
    await runner.take(command('quick'));
    runner.stop();
    await runner.idle();
    expect(reports).toEqual([['quick', { state: 'succeeded', result: 'saved' }]]);
  });

  test('a command that comes twice is executed once; its outcome is reported again', async () => {
    let runs = 0;
    runner.handle('count', () => (runs += 1));
    await runner.take(command('count', 'x'));
    await runner.idle();
    await runner.take(command('count', 'x'));
    await runner.idle();
    expect(runs).toBe(1);
    expect(reports).toEqual([
      ['x', { state: 'succeeded', result: 1 }],
      ['x', { state: 'succeeded', result: 1 }],
    ]);
  });

  test('a command that comes again while it is carried out is reported as running', async () => {
    let resolve: (() => void) | undefined;
    const promise = new Promise<void>((done) => (resolve = done));
    let runs = 0;
    runner.handle('slow', async () => {
      runs += 1;
      await promise;
    });
    await Promise.all([runner.take(command('slow', 'x')), runner.take(command('slow', 'x'))]);
    resolve?.();
    await runner.idle();
    expect(runs).toBe(1);
    expect(reports).toEqual([
      ['x', { state: 'running' }],
      ['x', { state: 'succeeded' }],
    ]);
  });

  test('progress is reported within its bounds, and not after the end', async () => {
    let tell: ((percent: number) => void) | undefined;
    runner.handle('prime', (_command, { progress }) => {
      tell = progress;
      progress(50, 'half way');
      progress(150);
    });
    await runner.take(command('prime'));
    await runner.idle();
    tell?.(99);
    expect(reports.map(([, report]) => report)).toEqual([
      { state: 'running', progress: 50, message: 'half way' },
      { state: 'running', progress: 100 },
      { state: 'succeeded' },
    ]);
  });

  test('a result the wire cannot carry is left out, and said to be', async () => {
    runner.handle('big', () => 'x'.repeat(20_000));
    runner.handle('circular', () => {
      const loop: Record<string, unknown> = {};
      loop['self'] = loop;
      return loop;
    });
    await runner.take(command('big'));
    await runner.take(command('circular'));
    await runner.idle();
    for (const [, report] of reports) {
      expect(report).toEqual({ state: 'succeeded', message: expect.stringContaining('left out') as string });
    }
  });

  test('a command is not begun when it cannot be put on record, not even when it comes again', async () => {
    let runs = 0;
    const unwritable = new ExecutedCommands({ path: join(path, 'under', 'a', 'file') });
    await writeFile(path, '');
    const careful = new CommandRunner(unwritable, (id, report) => reports.push([id, report]));
    careful.handle('count', () => (runs += 1));
    await careful.take(command('count'));
    await rm(path);
    await careful.take(command('count'));
    await careful.idle();
    expect(runs).toBe(0);
    const report = { state: 'failed', message: expect.stringContaining('not begun') as string };
    expect(reports).toEqual([
      ['count', report],
      ['count', report],
    ]);
  });
});
