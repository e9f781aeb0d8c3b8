import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Pulled, PullRequest } from '../broker/commands/pull.ts';
import type { Device } from '../devices/device.ts';
import { PullStack } from './pull-stack.ts';

/** What of pulling shows from inside alone; the rest is in api-pull.test.ts, by HTTP. */
let stack: PullStack;
let device: Device;

beforeEach(async () => {
  stack = await PullStack.open();
  device = await stack.device('label', { leaseSeconds: 10 });
});
afterEach(() => stack.close());

function lease(request: Partial<PullRequest> = {}): Pulled {
  return stack.pull.lease(device, { limit: 10, sizeOf: () => 1, envelopeBytes: 1, ...request });
}

const stateOf = (id: string): string | undefined => stack.ledger.book.get(id)?.state;

describe('a cursor', () => {
  test('of a time that the server has not come to is refused before anything changes: its folder was put back', async () => {
    const { id } = await stack.issue('label');
    lease();
    const through = (stack.clock.now() + 1_000) * 1_000;
    const since = stack.pull.cursorOf(device, { way: 'http', after: 0, through });
    expect(() => lease({ since })).toThrow(expect.objectContaining({ code: 'invalid_cursor', at: 'query.since' }));
    expect(() => stack.pull.confirmThrough(device, since, 'since')).toThrow(
      expect.objectContaining({ code: 'invalid_cursor', at: 'since' }),
    );
    expect(stateOf(id)).toBe('sent');
  });

  test('of an answer without commands is the one that was given, or one that confirms nothing', async () => {
    const { id } = await stack.issue('label');
    const { cursor } = lease();
    const empty = lease().cursor;
    lease({ since: empty });
    expect(stateOf(id)).toBe('sent');
    expect(lease({ since: cursor }).cursor).toBe(cursor);
    expect(stateOf(id)).toBe('delivered');
  });

  test('of an event confirms what its stream brought up to it, and has the rest of the stream offered again', async () => {
    const after = stack.ledger.nextHandover();
    const pushed: { id: string; handover: number }[] = [];
    for (let i = 0; i < 3; i += 1) {
      const { id } = await stack.issue('label');
      const handover = stack.ledger.nextHandover();
      stack.ledger.tryStep(id, { type: 'lease', transport: 'sse', leaseMs: 10_000, handover });
      pushed.push({ id, handover });
    }
    const { handover: through = 0 } = pushed[1] ?? {};
    await stack.pull.confirmThrough(device, stack.pull.cursorOf(device, { way: 'sse', after, through }));
    expect(pushed.map(({ id }) => stateOf(id))).toEqual(['delivered', 'delivered', 'queued']);
  });

  test('confirms what was superseded meanwhile: the device had it before', async () => {
    const { id } = await stack.issue('label', { key: 'price' });
    const { cursor } = lease();
    stack.ledger.tryStep(id, { type: 'supersede', by: 'newer' });
    lease({ since: cursor });
    expect(stateOf(id)).toBe('delivered');
  });

  test('that says an answer was lost ends a command whose attempts are used up', async () => {
    const { cursor } = lease();
    const { id } = await stack.issue('label', { maxAttempts: 1 });
    lease();
    lease({ since: cursor });
    expect(await stack.ledger.find(id)).toMatchObject({ state: 'undeliverable', attempts: 1 });
  });
});

describe('a release', () => {
  test('gives back what is still out as it was handed over, and nothing that went another way since', async () => {
    const { id } = await stack.issue('label');
    const first = lease().commands;
    stack.ledger.tryStep(id, { type: 'lapse' });
    const second = lease().commands;
    stack.pull.release(first);
    expect(stack.ledger.book.get(id)).toMatchObject({ state: 'sent', attempts: 2 });
    stack.pull.release(second);
    expect(stack.ledger.book.get(id)).toMatchObject({ state: 'queued', attempts: 1 });
  });
});

describe('deferrals', () => {
  test('are written once, however often the device comes', async () => {
    for (let i = 0; i < 3; i += 1) await stack.issue('label', { expiresWakes: 100 });
    lease({ limit: 1 });
    const [, second] = stack.ledger.book.of('label');
    stack.clock.advance(1_000);
    const before = second?.deferral;
    lease({ limit: 0 });
    expect(stack.ledger.book.get(second?.id ?? '')?.deferral).toBe(before);
    expect(before).toMatchObject({ reason: 'over_limit' });
  });
});

describe('times of change', () => {
  test('only grow, and are later than any that was looked at, though the clock is set back', async () => {
    const { lastChangeAt: seen } = stack.pull.tag(device);
    stack.clock.advance(60_000);
    stack.pull.tag(device);
    const lookedAt = stack.clock.now();
    stack.clock.advance(-3_600_000);
    await stack.issue('label');
    const { lastChangeAt } = stack.pull.tag(device);
    expect(seen).toBeLessThan(lookedAt);
    expect(lastChangeAt).toBeGreaterThanOrEqual(lookedAt);
  });

  test('move with all that takes a command off the queue', async () => {
    const { id } = await stack.issue('label');
    const queuedAt = stack.pull.tag(device).lastChangeAt;
    stack.clock.advance(1_000);
    await stack.ledger.step(id, { type: 'cancel', force: false }).durable;
    expect(stack.pull.tag(device).lastChangeAt).toBe(queuedAt + 1_000);
  });
});
