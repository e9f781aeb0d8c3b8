import { expect, test } from 'vitest';
import { LiveEvents, type LiveEvent } from '../broker/live-events.ts';
import { commandOf } from './history-fixtures.ts';

const clock = { now: () => 1_700_000_000_000 };

function step(): LiveEvent {
  return { type: 'command', deviceId: 'd', at: clock.now(), from: 'none', command: commandOf('d') };
}

test('what happens before anybody listens is not kept, and nobody goes on from a place before it', () => {
  const events = new LiveEvents('run', clock);
  for (let i = 0; i < 5; i += 1) events.publish(step());
  expect(events.sequence).toBe(5);
  expect(events.since(5)).toBeUndefined();
  const leave = events.subscribe(() => {});
  expect(events.since(5)).toEqual([]);
  expect(events.since(4)).toBeUndefined();
  const [first, second] = [step(), step()];
  events.publish(first);
  leave();
  events.publish(second);
  events.subscribe(() => {});
  expect(events.since(5)).toEqual([
    { sequence: 6, event: first },
    { sequence: 7, event: second },
  ]);
});

test('a listener is told of each event with its number', () => {
  const events = new LiveEvents('run', clock);
  events.publish(step());
  const told: number[] = [];
  events.subscribe(({ sequence }) => told.push(sequence));
  events.publish(step());
  events.publish(step());
  expect(told).toEqual([2, 3]);
});
