import assert from 'node:assert/strict';
import fc from 'fast-check';
import { test } from 'vitest';
import type { Pulled } from '../broker/commands/pull.ts';
import type { Command, Transport } from '../devices/command.ts';
import { isLeasable } from '../devices/command-machine.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { Device } from '../devices/device.ts';
import { PullStack } from './pull-stack.ts';

/**
 * A device of two clients with one identity that polls with whatever cursors it has, gets pushes by MQTT and events beside, loses answers on the way and reports
 * when it likes. Whatever the order: nothing counts as delivered that the device did not get, no command is lost, none is handed out twice at a time, and
 * the device, which drops what it has seen, carries each out once. PULL_SEED and PULL_RUNS run it otherwise; a failure prints the seed.
 */
const SEED = Number(process.env['PULL_SEED'] ?? 20_261_121);
const RUNS = Number(process.env['PULL_RUNS'] ?? 60);
const STEPS_MAX = 60;
const LEASE_SECONDS = 10;
const ENVELOPE_BYTES = 10;

type Loss = 'arrives' | 'lost' | 'never_left';
type Action =
  | { readonly type: 'issue'; readonly isUrgent: boolean; readonly bytes: number }
  | {
      readonly type: 'poll';
      readonly client: 0 | 1;
      /** Which of the client's cursors: none, its last, or one of before. */
      readonly since: 'none' | 'last' | 'old';
      readonly limit: number;
      readonly maxBytes?: number | undefined;
      readonly loss: Loss;
    }
  | { readonly type: 'push'; readonly way: 'mqtt' | 'sse'; readonly arrives: boolean }
  | { readonly type: 'confirm_pushes' }
  | { readonly type: 'end_session'; readonly way: 'mqtt' | 'sse' }
  | { readonly type: 'report'; readonly of: number; readonly state: 'running' | 'succeeded' }
  | { readonly type: 'pass'; readonly ms: number };

const polls = fc.record({
  type: fc.constant('poll' as const),
  client: fc.constantFrom(0 as const, 1 as const),
  since: fc.constantFrom('none' as const, 'last' as const, 'last' as const, 'old' as const),
  limit: fc.integer({ min: 1, max: 4 }),
  maxBytes: fc.option(fc.integer({ min: 20, max: 120 }), { nil: undefined }),
  loss: fc.constantFrom<Loss>('arrives', 'arrives', 'lost', 'never_left'),
});
const ways = fc.constantFrom('mqtt' as const, 'sse' as const);
const actions: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant('issue' as const),
      isUrgent: fc.boolean(),
      bytes: fc.integer({ min: 5, max: 100 }),
    }),
  },
  { weight: 8, arbitrary: polls },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('push' as const), way: ways, arrives: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('confirm_pushes' as const) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('end_session' as const), way: ways }) },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('report' as const),
      of: fc.nat(20),
      state: fc.constantFrom('running' as const, 'succeeded' as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('pass' as const), ms: fc.constantFrom(500, 6_000, 11_000) }) },
);

class World {
  readonly #stack: PullStack;
  readonly #device: Device;
  readonly #issued: string[] = [];
  readonly #executed: string[] = [];
  /** By hand-over number, the command that is out with it. */
  readonly #out = new Map<string, number>();
  readonly #cursors: [string[], string[]] = [[], []];
  /** Pushed by MQTT, arrived, and not acknowledged yet. */
  readonly #unacknowledged: string[] = [];
  #streamAfter: number;
  /** A stream keeps its order: nothing arrives behind an event that was lost. */
  #isStreamCut = false;

  constructor(stack: PullStack, device: Device) {
    this.#stack = stack;
    this.#device = device;
    this.#streamAfter = stack.ledger.nextHandover();
  }

  async run(action: Action): Promise<void> {
    switch (action.type) {
      case 'issue': {
        const { isUrgent, bytes } = action;
        const { id } = await this.#stack.issue('pump', { params: bytes, ...(isUrgent && { priority: 'urgent' }) });
        this.#issued.push(id);
        break;
      }
      case 'poll':
        this.#poll(action);
        break;
      case 'push':
        this.#push(action.way, action.arrives);
        break;
      case 'confirm_pushes':
        for (const id of this.#unacknowledged.splice(0)) this.#stack.ledger.tryStep(id, { type: 'confirm', transport: 'mqtt' });
        break;
      case 'end_session':
        this.#endSession(action.way);
        break;
      case 'report':
        this.#report(this.#executed[action.of], action.state);
        break;
      case 'pass':
        this.#pass(action.ms);
    }
    this.#check();
  }

  /** The network is well again, the device wakes as often as it takes: all is carried out, once, and known to be. */
  async finish(): Promise<void> {
    this.#endSession('mqtt');
    this.#endSession('sse');
    for (let wakes = 0; this.#open().length > 0; wakes += 1) {
      assert.ok(wakes < 1_000, 'the queue does not come to an end');
      this.#poll({ client: 0, since: 'last', limit: 10, loss: 'arrives' });
      for (const id of this.#executed) this.#report(id, 'succeeded');
      this.#pass(LEASE_SECONDS * 1_000);
      this.#check();
    }
    assert.deepEqual(this.#executed.toSorted(), this.#issued.toSorted());
    for (const id of this.#issued) assert.equal((await this.#stack.ledger.find(id))?.state, 'succeeded');
  }

  #poll({ client, since, limit, maxBytes, loss }: Omit<Extract<Action, { type: 'poll' }>, 'type'>): void {
    const had = this.#cursors[client];
    const cursor = since === 'none' ? undefined : since === 'last' ? had.at(-1) : had.at(-3);
    const pulled: Pulled = this.#stack.pull.lease(this.#device, {
      limit,
      ...(maxBytes !== undefined && { maxBytes }),
      ...(cursor !== undefined && { since: cursor }),
      sizeOf: ({ params }) => Number(params),
      envelopeBytes: ENVELOPE_BYTES,
    });
    const { commands } = pulled;
    assert.ok(commands.length <= limit);
    const bytes = commands.reduce((sum, { params }) => sum + Number(params), ENVELOPE_BYTES);
    assert.ok(bytes <= (maxBytes ?? Number.POSITIVE_INFINITY), 'the answer is larger than maxBytes');
    for (const command of commands) this.#handOut(command, 'http');
    if (loss === 'never_left') this.#stack.pull.release(commands);
    if (loss !== 'arrives') return;
    for (const { id } of commands) this.#execute(id);
    had.push(pulled.cursor);
  }

  #push(way: 'mqtt' | 'sse', arrives: boolean): void {
    const { ledger, pull, clock } = this.#stack;
    const next = this.#open().find((command) => isLeasable(command, clock.now()));
    if (next === undefined) return;
    const handover = ledger.nextHandover();
    const leased = ledger.tryStep(next.id, { type: 'lease', transport: way, leaseMs: LEASE_SECONDS * 1_000, handover });
    assert.ok(leased);
    this.#handOut(leased, way);
    if (way === 'sse' && !arrives) this.#isStreamCut = true;
    if (!arrives || (way === 'sse' && this.#isStreamCut)) return;
    this.#execute(next.id);
    if (way === 'mqtt') this.#unacknowledged.push(next.id);
    else this.#cursors[0].push(pull.cursorOf(this.#device, { way, after: this.#streamAfter, through: handover }));
  }

  #handOut({ id, handover = 0 }: Command, way: Transport): void {
    const before = this.#out.get(id) ?? 0;
    assert.ok(handover > before, `${id} went out by ${way} with the number ${handover} after ${before}`);
    this.#out.set(id, handover);
  }

  #execute(id: string): void {
    if (!this.#executed.includes(id)) this.#executed.push(id);
  }

  #report(id: string | undefined, state: 'running' | 'succeeded'): void {
    if (id === undefined) return;
    try {
      this.#stack.ledger.step(id, { type: 'report', report: { state }, transport: 'http' }).durable.catch(() => {});
    } catch (error) {
      if (!(error instanceof DownlinkError)) throw error;
    }
  }

  /** What a session had not confirmed is given back, as the dispatcher does. */
  #endSession(way: 'mqtt' | 'sse'): void {
    for (const { id, state, transport } of this.#open()) {
      if (state === 'sent' && transport === way) this.#stack.ledger.tryStep(id, { type: 'lapse' });
    }
    if (way === 'mqtt') {
      this.#unacknowledged.length = 0;
    } else {
      this.#streamAfter = this.#stack.ledger.nextHandover();
      this.#isStreamCut = false;
    }
  }

  /** Leases lapse here and not by their timer, which is slow for a test. */
  #pass(ms: number): void {
    const { clock, ledger } = this.#stack;
    clock.advance(ms);
    for (const { id, leaseUntil } of this.#open()) {
      if (leaseUntil !== undefined && leaseUntil <= clock.now()) ledger.tryStep(id, { type: 'lapse' });
    }
  }

  #check(): void {
    for (const { id, state } of this.#open()) {
      const isDelivered = state !== 'queued' && state !== 'sent';
      assert.ok(!isDelivered || this.#executed.includes(id), `${id} counts as ${state}, and the device never got it`);
    }
    const open = new Set(this.#open().map(({ id }) => id));
    for (const id of this.#issued) assert.ok(open.has(id) || this.#executed.includes(id), `${id} is lost`);
  }

  #open(): Command[] {
    return [...this.#stack.ledger.book.of('pump')];
  }
}

test(
  `pulls, pushes, losses and reports in any order lose nothing (seed ${SEED}, ${RUNS} runs)`,
  { timeout: 120_000 },
  async () => {
    const property = fc.asyncProperty(fc.array(actions, { minLength: 10, maxLength: STEPS_MAX }), async (steps) => {
      const stack = await PullStack.open();
      try {
        const world = new World(stack, await stack.device('pump', { leaseSeconds: LEASE_SECONDS }));
        for (const step of steps) await world.run(step);
        await world.finish();
      } finally {
        await stack.close();
      }
    });
    await fc.assert(property, { seed: SEED, numRuns: RUNS });
  },
);
