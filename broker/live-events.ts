import type { Clock } from '../devices/clock.ts';
import type { Command, CommandState } from '../devices/command.ts';
import type { Presence, PresenceState } from '../devices/presence.ts';
import type { MetricValue } from '../devices/telemetry.ts';

/**
 * What happens, as it happens, for live streams. From the first listener on the last events are kept, so that a stream that was cut can go on where it was;
 * ids are only good within one run of the server.
 */
export type LiveEvent =
  | TelemetryEvent
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

export type TelemetryEvent = {
  readonly type: 'telemetry';
  readonly deviceId: string;
  /** Epoch nanoseconds as text. */
  readonly timeNs: string;
  readonly values: Readonly<Record<string, MetricValue>>;
};

export type LiveEventType = LiveEvent['type'];
export const LIVE_EVENT_TYPES = ['telemetry', 'command', 'presence'] as const;

export type NumberedEvent = { readonly sequence: number; readonly event: LiveEvent };

const KEPT_EVENTS_MAX = 16_384;
/** How long after the last listener left its return is still waited for. */
const TELEMETRY_KEPT_MS = 60_000;

export class LiveEvents {
  /** Tells one run of the server from another. */
  readonly runId: string;
  readonly #clock: Clock;
  readonly #kept: (LiveEvent | undefined)[] = new Array<LiveEvent | undefined>(KEPT_EVENTS_MAX);
  readonly #listeners = new Set<(numbered: NumberedEvent) => void>();
  #sequence = 0;
  #lastListenerAt: number | undefined;
  /** Nothing before this number is kept: nobody had listened yet, so nobody has a place there to go on from. */
  #keptFrom = Number.POSITIVE_INFINITY;
  /** Telemetry before this number was not kept, because nobody listened. */
  #telemetryFrom = 0;

  constructor(runId: string, clock: Clock) {
    this.runId = runId;
    this.#clock = clock;
  }

  /** Tells all listeners, and keeps the event. Telemetry that nobody listens to costs nothing and is not kept. */
  publish(event: LiveEvent): void {
    if (event.type === 'telemetry' && !this.#wantsTelemetry()) {
      this.#leaveGap();
      return;
    }
    this.#sequence += 1;
    if (this.#keptFrom === Number.POSITIVE_INFINITY) return;
    this.#kept[this.#sequence % KEPT_EVENTS_MAX] = event;
    if (this.#listeners.size === 0) return;
    const numbered = { sequence: this.#sequence, event };
    for (const listener of this.#listeners) listener(numbered);
  }

  /** Samples in the order in which they were taken. */
  publishTelemetry(samples: readonly Omit<TelemetryEvent, 'type'>[]): void {
    if (!this.#wantsTelemetry()) return this.#leaveGap();
    for (const { deviceId, timeNs, values } of samples) this.publish({ type: 'telemetry', deviceId, timeNs, values });
  }

  /** Number of the newest event; 0 before the first. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Calls `listener` for each event from now on; returns the way out. */
  subscribe(listener: (numbered: NumberedEvent) => void): () => void {
    this.#listeners.add(listener);
    this.#keptFrom = Math.min(this.#keptFrom, this.#sequence);
    return () => {
      this.#listeners.delete(listener);
      this.#lastListenerAt = this.#clock.now();
    };
  }

  /**
   * The events after `sequence`, oldest first, at most `limit`; undefined when some of them are no longer kept or it was never given out. Gaps in telemetry
   * count only for those who want it.
   */
  since(sequence: number, wantsTelemetry = true, limit = KEPT_EVENTS_MAX): NumberedEvent[] | undefined {
    if (sequence > this.#sequence || sequence < this.#keptFrom || this.#sequence - sequence > KEPT_EVENTS_MAX) return undefined;
    if (wantsTelemetry && sequence < this.#telemetryFrom) return undefined;
    const events: NumberedEvent[] = [];
    for (let n = sequence + 1; n <= this.#sequence && events.length < limit; n += 1) {
      const event = this.#kept[n % KEPT_EVENTS_MAX];
      if (event !== undefined) events.push({ sequence: n, event });
    }
    return events;
  }

  /** A run of telemetry that was not kept takes one number, so that who comes after it has a number that tells. */
  #leaveGap(): void {
    if (this.#telemetryFrom === this.#sequence && this.#sequence > 0) return;
    this.#sequence += 1;
    this.#kept[this.#sequence % KEPT_EVENTS_MAX] = undefined;
    this.#telemetryFrom = this.#sequence;
  }

  #wantsTelemetry(): boolean {
    if (this.#listeners.size > 0) return true;
    return this.#lastListenerAt !== undefined && this.#clock.now() - this.#lastListenerAt < TELEMETRY_KEPT_MS;
  }
}
