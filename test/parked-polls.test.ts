import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { type ParkedPoll, type ParkEnd } from '../broker/commands/parked-polls.ts';
import { eventually } from './api-support.ts';
import { PullStack } from './pull-stack.ts';

const POLLS_MAX = 600;

let stack: PullStack;

beforeEach(async () => {
  stack = await PullStack.open({ pollsMax: POLLS_MAX });
});
afterEach(() => stack.close());

/** A poll that takes one command. */
class OnePoll implements ParkedPoll {
  readonly deviceId: string;
  readonly got: string[] = [];
  ended: ParkEnd | undefined;

  constructor(deviceId: string) {
    this.deviceId = deviceId;
  }

  offer(): boolean {
    const { commands } = stack.pull.lease(
      stack.registry.get(this.deviceId),
      { limit: 1, sizeOf: () => 1, envelopeBytes: 1 },
      false,
    );
    this.got.push(...commands.map(({ id }) => id));
    return commands.length > 0;
  }

  end(end: ParkEnd): void {
    this.ended = end;
  }
}

function park(deviceId: string, waitMs = 60_000): OnePoll {
  const poll = new OnePoll(deviceId);
  expect(stack.parked.park(poll, waitMs)).toBeUndefined();
  return poll;
}

const until = (is: () => boolean): Promise<true> => eventually(async () => is() || undefined);

describe('parked polls', () => {
  test('of one device each get a command of their own, the newest poll first', async () => {
    await stack.device('label');
    const [older, newer] = [park('label'), park('label')];
    const first = await stack.issue('label');
    await until(() => newer.got.length > 0);
    expect([older.got, newer.got]).toEqual([[], [first.id]]);
    const second = await stack.issue('label');
    await until(() => older.got.length > 0);
    expect([older.got, newer.got, stack.parked.size]).toEqual([[second.id], [first.id], 0]);
  });

  test('are offered what comes together all in one', async () => {
    await stack.device('label');
    const polls = [park('label'), park('label')];
    const issued = await Promise.all([stack.issue('label'), stack.issue('label')]);
    await until(() => polls.every(({ got }) => got.length === 1));
    expect(polls.flatMap(({ got }) => got).toSorted()).toEqual(issued.map(({ id }) => id).toSorted());
  });

  test('stay when another way has taken the command first', async () => {
    const device = await stack.device('label');
    const poll = park('label');
    stack.ledger.on('queued', () => {
      stack.pull.lease(device, { limit: 1, sizeOf: () => 1, envelopeBytes: 1 });
    });
    await stack.issue('label');
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([poll.got, stack.parked.size]).toEqual([[], 1]);
  });

  test('get a command that is given back by a lapse, and one whose time has come', async () => {
    const device = await stack.device('label', { leaseSeconds: 10 });
    const { id } = await stack.issue('label');
    stack.pull.lease(device, { limit: 1, sizeOf: () => 1, envelopeBytes: 1 });
    const poll = park('label');
    stack.clock.advance(10_000);
    await until(() => poll.got.length > 0);
    expect(poll.got).toEqual([id]);
    const next = park('label');
    const later = await stack.issue('label', { notBefore: stack.clock.now() + 5_000 });
    stack.clock.advance(5_000);
    await until(() => next.got.length > 0);
    expect(next.got).toEqual([later.id]);
  });

  test('end when they have waited', async () => {
    await stack.device('label');
    const [long, short] = [park('label', 60_000), park('label', 10_000)];
    stack.clock.advance(10_000);
    await until(() => short.ended !== undefined);
    expect([short.ended, long.ended]).toEqual([{ why: 'waited' }, undefined]);
  });

  test('end rather than wait for as long as the clock was set back', async () => {
    await stack.device('label');
    const poll = park('label', 1_000_000);
    // The clock is looked at once a second; it must have been seen later before.
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    stack.clock.advance(-3_600_000);
    await until(() => poll.ended !== undefined);
    expect(poll.ended).toEqual({ why: 'waited' });
  });

  test('that were left are offered nothing and not ended', async () => {
    await stack.device('label');
    const poll = park('label', 1_000);
    stack.parked.leave(poll);
    stack.parked.leave(poll);
    const { id } = await stack.issue('label');
    stack.clock.advance(1_000);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([poll.got, poll.ended, stack.parked.size, stack.ledger.book.get(id)?.state]).toEqual([[], undefined, 0, 'queued']);
  });

  test('make their device one that waits', async () => {
    await stack.device('label');
    const [one, two] = [park('label'), park('label')];
    expect(stack.presence.presence('label').state).toBe('waiting');
    stack.parked.leave(one);
    expect(stack.presence.presence('label').state).toBe('waiting');
    stack.parked.leave(two);
    expect(stack.presence.presence('label').state).toBe('asleep');
  });

  test('end with the credential of their device', async () => {
    await stack.device('label');
    await stack.device('other');
    const [poll, other] = [park('label'), park('other')];
    await stack.registry.rotateToken('label');
    expect([poll.ended, other.ended]).toEqual([{ why: 'credential_gone' }, undefined]);
    await stack.registry.delete('other');
    expect([other.ended, stack.parked.size]).toEqual([{ why: 'credential_gone' }, 0]);
  });

  test('are no more than a device may have', async () => {
    await stack.device('label');
    await stack.device('other');
    const polls = Array.from({ length: DEFAULT_BOUNDS.parked_polls_per_device }, () => park('label'));
    expect(stack.parked.park(new OnePoll('label'), 60_000)).toBe('device');
    park('other');
    stack.parked.leave(polls[1] ?? expect.fail());
    park('label');
  });

  test('are no more than the server may have', async () => {
    for (let i = 0; i < POLLS_MAX; i += 1) park(`label-${i}`);
    expect(stack.parked.park(new OnePoll('label'), 60_000)).toBe('server');
  });

  test('end at a stop, and are asked back a few hundred a second', async () => {
    const polls = Array.from({ length: POLLS_MAX }, (_, i) => park(`label-${i}`));
    stack.parked.close();
    const seconds = polls.map(({ ended }) => (ended?.why === 'stopping' ? ended.retrySeconds : expect.fail()));
    const counts = seconds.reduce((all, second) => all.set(second, (all.get(second) ?? 0) + 1), new Map<number, number>());
    expect([...counts]).toEqual([
      [2, 200],
      [3, 200],
      [4, 200],
    ]);
    expect(stack.parked.park(new OnePoll('label'), 60_000)).toBe('stopping');
  });
});
