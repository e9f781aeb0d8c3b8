import assert from 'node:assert/strict';
import fc from 'fast-check';
import { test } from 'vitest';
import type { PushSession } from '../broker/commands/push-line.ts';
import type { Command } from '../devices/command.ts';
import type { Device } from '../devices/device.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import { PullStack } from './pull-stack.ts';

/**
 * A device that opens and loses connections over MQTT and event streams, some of which die unseen, and polls beside; PUBACKs, ids of events and cursors come late
 * or never. Whatever the order: no command has two leases at a time, none counts as delivered that the device did not get, none is lost, no session has
 * more than its window. PUSH_SEED and PUSH_RUNS run it otherwise; a failure prints the seed.
 */
const SEED = Number(process.env['PUSH_SEED'] ?? 20_261_121);
const RUNS = Number(process.env['PUSH_RUNS'] ?? 60);
const STEPS_MAX = 80;
const LEASE_SECONDS = 10;
const WINDOW = 8;

type Action =
  | { readonly type: 'issue'; readonly isUrgent: boolean; readonly isLarge: boolean }
  | { readonly type: 'open'; readonly way: 'mqtt' | 'sse'; readonly resumes: boolean; readonly isSilent: boolean }
  /** The network swallows all from here on; neither side notices. */
  | { readonly type: 'go_silent'; readonly of: number }
  | { readonly type: 'close'; readonly of: number }
  | { readonly type: 'confirm'; readonly of: number; readonly count: number }
  | { readonly type: 'poll'; readonly since: 'none' | 'http' | 'sse'; readonly limit: number; readonly arrives: boolean }
  | { readonly type: 'report'; readonly of: number }
  | { readonly type: 'pass'; readonly ms: number };

const ways = fc.constantFrom('mqtt' as const, 'sse' as const);
const actions: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constant('issue' as const),
      isUrgent: fc.boolean(),
      isLarge: fc.constantFrom(false, false, true),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant('open' as const), way: ways, resumes: fc.boolean(), isSilent: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('go_silent' as const), of: fc.nat(3) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('close' as const), of: fc.nat(3) }) },
  {
    weight: 4,
    arbitrary: fc.record({ type: fc.constant('confirm' as const), of: fc.nat(3), count: fc.integer({ min: 1, max: 5 }) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant('poll' as const),
      since: fc.constantFrom('none' as const, 'http' as const, 'sse' as const),
      limit: fc.integer({ min: 1, max: 5 }),
      arrives: fc.constantFrom(true, true, false),
    }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('report' as const), of: fc.nat(30) }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('pass' as const), ms: fc.constantFrom(100, 1_500, 5_500, 11_000) }) },
);

/** A connection as both ends see it. */
class Connection implements PushSession {
  readonly deviceId = 'pump';
  readonly transport: 'mqtt' | 'sse';
  readonly confirmsWithinMs: number | undefined;
  /** Pushed over MQTT, arrived, and not acknowledged. */
  readonly unacknowledged: string[] = [];
  /** Of the last event that arrived. */
  place: string | undefined;
  isSilent = false;
  readonly #world: World;
  #after = 0;

  constructor(transport: 'mqtt' | 'sse', world: World) {
    this.transport = transport;
    this.confirmsWithinMs = transport === 'mqtt' ? 5_000 : undefined;
    this.#world = world;
  }

  begin(): void {
    this.#after = this.#world.stack.ledger.nextHandover();
  }

  push(command: Command): void {
    this.#world.handOut(command);
    if (this.isSilent) return;
    this.#world.execute(command.id);
    if (this.transport === 'mqtt') this.unacknowledged.push(command.id);
    else this.place = this.#world.cursorOf(this.#after, command.handover ?? 0);
  }
}

class World {
  readonly stack: PullStack;
  readonly #device: Device;
  readonly #issued: string[] = [];
  readonly #executed: string[] = [];
  readonly #open: Connection[] = [];
  /** The last hand-over of each command. */
  readonly #handovers = new Map<string, number>();
  #httpCursor: string | undefined;
  #sseCursor: string | undefined;

  constructor(stack: PullStack, device: Device) {
    this.stack = stack;
    this.#device = device;
  }

  async run(action: Action): Promise<void> {
    switch (action.type) {
      case 'issue': {
        const { isUrgent, isLarge } = action;
        const params = isLarge ? 'x'.repeat(500) : 'x';
        const { id } = await this.stack.issue('pump', { params, ...(isUrgent && { priority: 'urgent' }) });
        this.#issued.push(id);
        break;
      }
      case 'open':
        this.#connect(action.way, action.resumes, action.isSilent);
        break;
      case 'go_silent':
        if (this.#open.length > 0) this.#at(action.of).isSilent = true;
        break;
      case 'close':
        if (this.#open.length > 0) this.#close(this.#at(action.of));
        break;
      case 'confirm':
        if (this.#open.length > 0) this.#confirm(this.#at(action.of), action.count);
        break;
      case 'poll':
        this.#poll(action.since, action.limit, action.arrives);
        break;
      case 'report':
        this.#report(this.#executed[action.of]);
        break;
      case 'pass':
        this.#pass(action.ms);
    }
    this.#check();
  }

  /** The network is well again, on one connection and with polls for what is not pushed: all is carried out and known to be. */
  async finish(way: 'mqtt' | 'sse'): Promise<void> {
    for (const connection of [...this.#open]) this.#close(connection);
    this.#connect(way, false, false);
    for (let rounds = 0; this.#book().length > 0; rounds += 1) {
      assert.ok(rounds < 1_000, 'the queue does not come to an end');
      this.#poll('none', 5, true);
      for (const id of [...this.#executed]) this.#report(id);
      this.#pass(LEASE_SECONDS * 1_000);
      this.#check();
    }
    assert.deepEqual(this.#executed.toSorted(), this.#issued.toSorted());
    for (const id of this.#issued) assert.equal((await this.stack.ledger.find(id))?.state, 'succeeded');
  }

  handOut({ id, handover = 0, state, attempts }: Command): void {
    const had = this.#handovers.get(id) ?? 0;
    assert.ok(handover > had, `${id} was handed out with ${handover} after ${had}`);
    assert.equal(state, 'sent');
    assert.ok(this.#leases.get(id) !== 'sent', `${id} was handed out a ${attempts}th time while it was out`);
    this.#handovers.set(id, handover);
    this.#leases.set(id, 'sent');
  }

  /** As the steps that the ledger took tell it: between two hand-overs of a command there is one that ends the first. */
  readonly #leases = new Map<string, string>();

  follow(): void {
    this.stack.ledger.prependListener('confirmed', () => {
      for (const [id, lease] of this.#leases) {
        const command = this.stack.ledger.book.get(id);
        if (lease === 'sent' && command?.state !== 'sent') this.#leases.set(id, 'over');
      }
    });
  }

  execute(id: string): void {
    if (!this.#executed.includes(id)) this.#executed.push(id);
  }

  cursorOf(after: number, through: number): string {
    return this.stack.pull.cursorOf(this.#device, { way: 'sse', after, through });
  }

  #connect(way: 'mqtt' | 'sse', resumes: boolean, isSilent: boolean): void {
    const connection = new Connection(way, this);
    connection.isSilent = isSilent;
    const { dispatcher, pull } = this.stack;
    if (way === 'mqtt') {
      // A second connection with the same client id ends the first [MQTT-3.1.4-2].
      for (const other of this.#open.filter(({ transport }) => transport === 'mqtt')) this.#close(other);
    }
    this.#open.push(connection);
    dispatcher.hold('pump', () => {
      if (way === 'sse' && resumes && this.#sseCursor !== undefined) {
        pull.confirmThrough(this.#device, this.#sseCursor).catch(() => {});
      }
      dispatcher.open(connection);
    });
  }

  #close(connection: Connection): void {
    this.#noteEvents(connection);
    this.#open.splice(this.#open.indexOf(connection), 1);
    this.stack.dispatcher.close(connection);
  }

  #noteEvents({ place }: Connection): void {
    if (place !== undefined) this.#sseCursor = place;
  }

  #confirm(connection: Connection, count: number): void {
    this.#noteEvents(connection);
    if (connection.isSilent) return;
    for (const id of connection.unacknowledged.splice(0, count)) {
      this.stack.ledger.tryStep(id, { type: 'confirm', transport: 'mqtt' });
    }
  }

  #poll(since: 'none' | 'http' | 'sse', limit: number, arrives: boolean): void {
    const cursor = since === 'http' ? this.#httpCursor : since === 'sse' ? this.#sseCursor : undefined;
    const pulled = this.stack.pull.lease(this.#device, {
      limit,
      ...(cursor !== undefined && { since: cursor }),
      sizeOf: () => 1,
      envelopeBytes: 1,
    });
    for (const command of pulled.commands) {
      this.handOut(command);
      if (arrives) this.execute(command.id);
    }
    if (arrives) this.#httpCursor = pulled.cursor;
  }

  #report(id: string | undefined): void {
    if (id === undefined) return;
    try {
      this.stack.ledger.step(id, { type: 'report', report: { state: 'succeeded' }, transport: 'http' }).durable.catch(() => {});
    } catch (error) {
      if (!(error instanceof DownlinkError)) throw error;
    }
  }

  /** Leases lapse here and not by their timer, which is slow for a test. */
  #pass(ms: number): void {
    const { clock, ledger, dispatcher } = this.stack;
    clock.advance(ms);
    for (const { id, leaseUntil } of this.#book()) {
      if (leaseUntil !== undefined && leaseUntil <= clock.now()) ledger.tryStep(id, { type: 'lapse' });
    }
    dispatcher.dispatch('pump');
  }

  #check(): void {
    const open = new Map(this.#book().map((command) => [command.id, command]));
    for (const { id, state } of open.values()) {
      const isDelivered = state !== 'queued' && state !== 'sent';
      assert.ok(!isDelivered || this.#executed.includes(id), `${id} counts as ${state}, and the device never got it`);
    }
    for (const id of this.#issued) assert.ok(open.has(id) || this.#executed.includes(id), `${id} is lost`);
    for (const way of ['mqtt', 'sse'] as const) {
      const count = [...open.values()].filter(({ state, transport }) => state === 'sent' && transport === way).length;
      const sessions = this.#open.filter(({ transport }) => transport === way).length;
      assert.ok(count <= WINDOW * sessions, `${count} commands are out over ${sessions} sessions of ${way}`);
    }
  }

  #at(of: number): Connection {
    const connection = this.#open[of % this.#open.length];
    assert.ok(connection);
    return connection;
  }

  #book(): Command[] {
    return [...this.stack.ledger.book.of('pump')];
  }
}

test(
  `connections that come, go and die unseen, polls, confirmations and lapses in any order lose nothing (seed ${SEED}, ${RUNS} runs)`,
  { timeout: 120_000 },
  async () => {
    const steps = fc.array(actions, { minLength: 10, maxLength: STEPS_MAX });
    const property = fc.asyncProperty(steps, ways, fc.boolean(), async (taken, way, isBounded) => {
      const stack = await PullStack.open();
      try {
        const device = await stack.device('pump', { leaseSeconds: LEASE_SECONDS, ...(isBounded && { pushBytes: 400 }) });
        const world = new World(stack, device);
        world.follow();
        for (const step of taken) await world.run(step);
        await world.finish(way);
      } finally {
        await stack.close();
      }
    });
    await fc.assert(property, { seed: SEED, numRuns: RUNS });
  },
);
