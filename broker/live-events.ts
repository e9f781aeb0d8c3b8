import type { Command, CommandState } from '../devices/command.ts';
import type { Presence, PresenceState } from '../devices/presence.ts';
import type { MetricValue } from '../devices/telemetry.ts';

/**
 * What happens, as it happens, for live streams. The last events are kept, so that a stream that was cut can go on where it was; ids
 * are only good within one run of the server.
 */
export type LiveEvent =
  | {
      readonly type: 'telemetry';
      readonly deviceId: string;
      /** Epoch nanoseconds as text. */
      readonly timeNs: string;
      readonly values: Readonly<Record<string, MetricValue>>;
    }
  | {
      readonly type: 'command';
      readonly deviceId: string;
      readonly at: number;
      /** `none` for a command just issued. */
      readonly from: CommandState | 'none';
      readonly command: Command;
    }
  | {
      readonly type: 'presence';
      readonly deviceId: string;
      readonly at: number;
      readonly from: PresenceState;
      readonly presence: Presence;
    };

export type LiveEventType = LiveEvent['type'];
export const LIVE_EVENT_TYPES = ['telemetry', 'command', 'presence'] as const;

export type NumberedEvent = { readonly sequence: number; readonly event: LiveEvent };

const KEPT_EVENTS_MAX = 16_384;

export class LiveEvents {
  /** Tells one run of the server from another. */
  readonly runId: string;
  readonly #kept: LiveEvent[] = new Array<LiveEvent>(KEPT_EVENTS_MAX);
  readonly #listeners = new Set<(numbered: NumberedEvent) => void>();
  #sequence = 0;

  constructor(runId: string) {
    this.runId = runId;
  }

  publish(event: LiveEvent): void {
    this.#sequence += 1;
    this.#kept[this.#sequence % KEPT_EVENTS_MAX] = event;
    if (this.#listeners.size === 0) return;
    const numbered = { sequence: this.#sequence, event };
    for (const listener of this.#listeners) listener(numbered);
  }

  /** Number of the newest event; 0 before the first. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Calls `listener` for each event from now on; returns the way out. */
  subscribe(listener: (numbered: NumberedEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The events after `sequence`, oldest first; undefined when some of them are no longer kept or it was never given out. */
  since(sequence: number): NumberedEvent[] | undefined {
    if (sequence > this.#sequence || this.#sequence - sequence > KEPT_EVENTS_MAX) return undefined;
    const events: NumberedEvent[] = [];
    for (let n = sequence + 1; n <= this.#sequence; n += 1) {
      const event = this.#kept[n % KEPT_EVENTS_MAX];
      if (event !== undefined) events.push({ sequence: n, event });
    }
    return events;
  }
}
