import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { afterAll, test } from 'vitest';
import { CommandLedger } from '../broker/commands/command-ledger.ts';
import { LiveEvents } from '../broker/live-events.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { rowsOf } from '../broker/store/line-rows.ts';
import { TimeMark } from '../broker/time-mark.ts';
import type { Command } from '../devices/command.ts';
import { dueEvent, transition, type CommandEvent } from '../devices/command-machine.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { uuidV7Source } from '../devices/uuid-v7.ts';
import { TestClock } from './live-server.ts';

/**
 * The journal and the state machine together against a model: random commands, steps, shipments, crashes at any moment and
 * recoveries. Whatever was acknowledged is there after each start, in State and in the rows for History; what was not is there whole
 * or not at all. LEDGER_SEED and LEDGER_RUNS run it otherwise; a failure prints the seed.
 */
const SEED = Number(process.env['LEDGER_SEED'] ?? 20_261_121);
const RUNS = Number(process.env['LEDGER_RUNS'] ?? 40);
const STEPS_MAX = 40;

type Action =
  | { readonly type: 'issue'; readonly isAwaited: boolean }
  | { readonly type: 'step'; readonly of: number; readonly event: CommandEvent; readonly isAwaited: boolean }
  | { readonly type: 'ship'; readonly isTrimmed: boolean }
  | { readonly type: 'restart' }
  | { readonly type: 'crash'; readonly turns: number; readonly downMs: number };

/** A command as it may be: as last acknowledged (undefined: it never was), or after any of the steps that were under way since. */
type Modelled = { readonly id: string; acknowledged: Command | undefined; underWay: Command[] };

const events: fc.Arbitrary<CommandEvent> = fc.oneof(
  fc.nat().map((handover) => ({ type: 'lease', transport: 'http', leaseMs: 30_000, handover }) as const),
  fc.constant({ type: 'confirm', transport: 'http' } as const),
  fc
    .constantFrom('running', 'succeeded', 'failed', 'rejected')
    .map((state) => ({ type: 'report', report: { state }, transport: 'http' }) as const),
  fc.boolean().map((force) => ({ type: 'cancel', force }) as const),
  fc.constant({ type: 'lapse' } as const),
  fc.constant({ type: 'release' } as const),
  fc.constant({ type: 'fail_condition', message: 'level is 3' } as const),
);
const actions: fc.Arbitrary<Action> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ type: fc.constant('issue' as const), isAwaited: fc.boolean() }) },
  {
    weight: 8,
    arbitrary: fc.record({ type: fc.constant('step' as const), of: fc.nat(9), event: events, isAwaited: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('ship' as const), isTrimmed: fc.boolean() }) },
  { weight: 1, arbitrary: fc.constant({ type: 'restart' as const }) },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant('crash' as const), turns: fc.nat(5), downMs: fc.constantFrom(0, 31_000, 400_000) }),
  },
);

let base: string | undefined;
afterAll(async () => {
  if (base !== undefined) await rm(base, { recursive: true, force: true });
});

class World {
  readonly clock = new TestClock(1_800_000_000_000);
  readonly #newId = uuidV7Source(this.clock);
  readonly #folder: string;
  #generation = 0;
  #state: LevelState | undefined;
  #ledger: CommandLedger | undefined;
  readonly #commands: Modelled[] = [];
  /** The rows of acknowledged steps: `id from to`. */
  readonly #promised = new Set<string>();
  /** What History has. */
  readonly #shipped: string[] = [];
  #pending: Promise<unknown>[] = [];

  constructor(folder: string) {
    this.#folder = folder;
  }

  async open(): Promise<void> {
    const folder = join(this.#folder, String(this.#generation));
    this.#state = await LevelState.open({ folder, journalBytesMax: 1e9, clock: this.clock });
    this.#ledger = new CommandLedger(this.#state, new LiveEvents('x', this.clock), this.clock, await TimeMark.load(this.#state));
    await this.#ledger.load();
  }

  async close(): Promise<void> {
    await Promise.all(this.#pending);
    this.#pending = [];
    await this.#ledger?.close();
    await this.#state?.close();
  }

  async run(action: Action): Promise<void> {
    switch (action.type) {
      case 'issue':
        return this.#issue(action.isAwaited);
      case 'step':
        return this.#step(action.of, action.event, action.isAwaited);
      case 'ship':
        return this.#ship(action.isTrimmed);
      case 'restart':
        await this.close();
        await this.open();
        return this.check();
      case 'crash':
        return this.#crash(action.turns, action.downMs);
    }
  }

  /** A copy of the folder, taken while writes are under way, is what a crash leaves. */
  async #crash(turns: number, downMs: number): Promise<void> {
    for (let i = 0; i < turns; i += 1) await new Promise(setImmediate);
    const acknowledged = this.#commands.map((command) => ({ ...command, underWay: [...command.underWay] }));
    const promised = new Set(this.#promised);
    const shipped = this.#shipped.length;
    const from = join(this.#folder, String(this.#generation));
    this.#generation += 1;
    await cp(from, join(this.#folder, String(this.#generation)), { recursive: true });
    await this.close();
    // What became durable while the copy was made may be in it or not.
    this.#commands.splice(0, this.#commands.length, ...acknowledged);
    this.#promised.clear();
    for (const step of promised) this.#promised.add(step);
    this.#shipped.length = shipped;
    this.clock.advance(downMs);
    await this.open();
    await this.check();
  }

  async #issue(isAwaited: boolean): Promise<void> {
    const ledger = this.#opened(this.#ledger);
    const now = this.clock.now();
    const command: Command = {
      id: this.#newId(),
      deviceId: 'pump',
      name: 'start',
      params: { n: this.#commands.length },
      priority: 'normal',
      confirm: 'result',
      expiresAt: now + 300_000,
      reportTimeoutSeconds: 300,
      maxAttempts: 2,
      queuedAt: now,
      historyNs: ledger.nextNs(now),
      state: 'queued',
      attempts: 0,
      wakes: 0,
    };
    const modelled: Modelled = { id: command.id, acknowledged: undefined, underWay: [command] };
    this.#commands.push(modelled);
    await this.#awaited(
      isAwaited,
      ledger.add(command, []).then(() => this.#acknowledge(modelled, command, 'none')),
    );
  }

  async #step(of: number, event: CommandEvent, isAwaited: boolean): Promise<void> {
    const modelled = this.#commands.at(of % Math.max(1, this.#commands.length));
    const ledger = this.#opened(this.#ledger);
    const had = modelled === undefined ? undefined : await ledger.find(modelled.id);
    if (modelled === undefined || had === undefined) return;
    if (event.type === 'lease' && had.state !== 'queued') return;
    try {
      const { command, durable } = ledger.step(had, event);
      if (command === had) return;
      modelled.underWay.push(command);
      await this.#awaited(
        isAwaited,
        durable.then(() => this.#acknowledge(modelled, command, had.state)),
      );
    } catch (error) {
      if (!(error instanceof DownlinkError)) throw error;
    }
  }

  async #ship(isTrimmed: boolean): Promise<void> {
    const { journal } = this.#opened(this.#state);
    const batch = await journal.read(0, 4_096);
    if (batch === undefined) return;
    this.#shipped.push(...rowsOf(batch.lines.toString()));
    if (isTrimmed) await journal.trim(batch.through);
  }

  async #awaited(isAwaited: boolean, work: Promise<void>): Promise<void> {
    if (isAwaited) await work;
    else this.#pending.push(work);
  }

  #acknowledge(modelled: Modelled, command: Command, from: string): void {
    const at = modelled.underWay.indexOf(command);
    modelled.underWay.splice(0, at + 1);
    modelled.acknowledged = command;
    this.#promised.add(`id="${command.id}",from="${from}",to="${command.state}"`);
  }

  async check(): Promise<void> {
    const ledger = this.#opened(this.#ledger);
    const state = this.#opened(this.#state);
    await state.commit([], []);
    const journal = (await state.journal.read(0, 1e9))?.lines.toString() ?? '';
    assert.equal(state.journal.bytes, Buffer.byteLength(journal));
    const rows = new Set([...this.#shipped, ...rowsOf(journal)].map((row) => /id="[^"]+",from="\w+",to="\w+"/.exec(row)?.[0]));
    for (const step of this.#promised) assert.ok(rows.has(step), `${step} was acknowledged and is in no row`);
    for (const [i, command] of this.#commands.entries()) {
      const found = await ledger.find(command.id);
      const mayBe = [command.acknowledged, ...command.underWay].map((one) => one && this.#asOfNow(one));
      assert.ok(
        mayBe.some((one) => isDeepStrictEqual(one, found)),
        JSON.stringify({ found, mayBe }),
      );
      // From here on it is what it was found to be.
      this.#commands[i] = { id: command.id, acknowledged: found, underWay: [] };
    }
    this.#commands.splice(0, this.#commands.length, ...this.#commands.filter((command) => command.acknowledged !== undefined));
  }

  /** What came due while the server was down has happened at the start. */
  #asOfNow(command: Command): Command {
    const now = this.clock.now();
    for (let had = command; ;) {
      const event = dueEvent(had, now);
      if (event === undefined) return had;
      const next = transition(had, event, now);
      if (typeof next === 'string') throw new Error(next);
      had = next;
    }
  }

  #opened<T>(part: T | undefined): T {
    if (part === undefined) throw new Error('not open');
    return part;
  }
}

test(`commands, journal and crashes agree with the model (seed ${SEED}, ${RUNS} runs)`, { timeout: 120_000 }, async () => {
  base = await mkdtemp(join(tmpdir(), 'downlink-ledger-'));
  let run = 0;
  const property = fc.asyncProperty(fc.array(actions, { minLength: 5, maxLength: STEPS_MAX }), async (steps) => {
    const folder = join(base ?? '', `run-${(run += 1)}`);
    const world = new World(folder);
    await mkdir(folder);
    await world.open();
    try {
      for (const step of steps) await world.run(step);
      await world.run({ type: 'crash', turns: 0, downMs: 0 });
    } finally {
      await world.close();
      await rm(folder, { recursive: true, force: true });
    }
  });
  await fc.assert(property, { seed: SEED, numRuns: RUNS });
});
