import { Histogram } from './histogram.ts';

/** What the fleet counts while it runs, by the way its devices are reached. */
export const WAYS = ['push', 'sleepy'] as const;
export type Way = (typeof WAYS)[number];

export class Counts {
  devices = 0;
  issued = 0;
  delivered = 0;
  readings = 0;
  readingsNotStored = 0;
  wakes = 0;
  reconnects = 0;
  /** From issue to the device having it. */
  readonly delivery = new Histogram();
}

export type Meter = {
  readonly push: Counts;
  readonly sleepy: Counts;
  /** The server would not take the command (queue full, expires before the next wake). */
  refused: number;
  /** Not issued because too many requests were under way. */
  heldBack: number;
  /** Neither a yes nor a no, after all retries. */
  unanswered: number;
  streamBreaks: number;
};

export function newMeter(): Meter {
  return { push: new Counts(), sleepy: new Counts(), refused: 0, heldBack: 0, unanswered: 0, streamBreaks: 0 };
}
