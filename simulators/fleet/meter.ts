import { Histogram } from './histogram.ts';
import { WAYS, type Way } from './ways.ts';

/** What the fleet counts while it runs, by the way its devices are reached. */
export class Counts {
  devices = 0;
  issued = 0;
  delivered = 0;
  readings = 0;
  readingsNotStored = 0;
  wakes = 0;
  reconnects = 0;
  /** From MQTT to pulling and back. */
  switches = 0;
  /** From issue to the device having it. */
  readonly delivery = new Histogram();
}

export type Meter = {
  readonly ways: Readonly<Record<Way, Counts>>;
  /** The server would not take the command (queue full, expires before the next wake). */
  refused: number;
  /** Not issued because too many requests were under way. */
  heldBack: number;
  /** Neither a yes nor a no, after all retries. */
  unanswered: number;
  streamBreaks: number;
};

export function newMeter(): Meter {
  const ways = Object.fromEntries(WAYS.map((way) => [way, new Counts()])) as Record<Way, Counts>;
  return { ways, refused: 0, heldBack: 0, unanswered: 0, streamBreaks: 0 };
}

/** The ways that have devices. */
export function waysInUse({ ways }: Meter): Way[] {
  return WAYS.filter((way) => ways[way].devices > 0);
}
