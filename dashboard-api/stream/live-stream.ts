import type { ServerResponse } from 'node:http';
import type { LiveEvent, LiveEvents, LiveEventType, NumberedEvent } from '../../broker/live-events.ts';
import { isAlert } from '../../devices/presence.ts';
import { isClogged } from '../departure.ts';
import { beginEventStream, RETRY_MS, STUCK_BEATS_MAX } from './event-stream.ts';
import { commentText, placeText, resetText, type ResetReason } from './stream-text.ts';

/**
 * One client's stream of events. It keeps no queue: what has not been written is in the ring of LiveEvents, and `#sequence` says how far this
 * stream has come. It is in one of these modes:
 *
 *   live     each event is written as it happens
 *   behind   the client reads slower than events come; the ring is followed each time the socket has drained, and where the ring has
 *            overtaken the stream, `reset` says so
 *   closed   the end
 */
export type StreamFilter = {
  /** Absent: all. */
  readonly types?: ReadonlySet<LiveEventType>;
  readonly devices?: ReadonlySet<string>;
  /** Of presence, only what raises an alert, changes it or ends it. */
  readonly alertsOnly?: boolean;
};

const CATCH_UP_EVENTS_MAX = 512;

type Mode = 'live' | 'behind' | 'closed';

export class LiveStream {
  /** The operator key that opened it. */
  readonly keyId: string;
  readonly #response: ServerResponse;
  readonly #events: LiveEvents;
  readonly #filter: StreamFilter;
  readonly #backlogBytesMax: number;
  readonly #onBehind: () => void;
  readonly #textOf: (numbered: NumberedEvent) => string;
  #mode: Mode = 'live';
  #sequence: number;
  #pending = '';
  #stuckBeats = 0;

  constructor(
    response: ServerResponse,
    options: {
      keyId: string;
      events: LiveEvents;
      filter: StreamFilter;
      /** What may wait in the socket before the stream falls behind. */
      backlogBytesMax: number;
      onBehind: () => void;
      textOf: (numbered: NumberedEvent) => string;
    },
  ) {
    this.keyId = options.keyId;
    this.#response = response;
    this.#events = options.events;
    this.#filter = options.filter;
    this.#backlogBytesMax = options.backlogBytesMax;
    this.#onBehind = options.onBehind;
    this.#textOf = options.textOf;
    this.#sequence = options.events.sequence;
  }

  /** Begins, after the last event the client has seen if it says which. */
  open(lastEventId: string | undefined): void {
    beginEventStream(this.#response);
    this.#pending = `retry: ${RETRY_MS}\n`;
    if (lastEventId === undefined) {
      this.#pending += placeText(this.#id(this.#sequence));
      this.#flush();
      return;
    }
    const sequence = this.#sequenceOf(lastEventId);
    if (typeof sequence === 'string') {
      this.#reset(sequence);
      return;
    }
    this.#sequence = sequence;
    this.#pending += placeText(this.#id(sequence));
    this.#followRing('too_old');
  }

  /** An event has just happened. */
  take(numbered: NumberedEvent): void {
    if (this.#mode !== 'live') return;
    this.#sequence = numbered.sequence;
    if (!this.#wants(numbered.event)) return;
    if (this.#pending === '') setImmediate(() => this.#flush());
    this.#pending += this.#textOf(numbered);
  }

  /** Called regularly: keeps the connection alive, moves the client's place on, and gives up on a client that reads nothing. */
  beat(): void {
    if (this.#mode === 'closed') return;
    if (this.#mode === 'behind' || isClogged(this.#response)) {
      this.#stuckBeats += 1;
      if (this.#stuckBeats >= STUCK_BEATS_MAX) this.#response.destroy();
      return;
    }
    this.#stuckBeats = 0;
    this.#pending += commentText('beat') + placeText(this.#id(this.#sequence));
    this.#flush();
  }

  /** Ends it with a word about why. */
  close(why: string): void {
    if (this.#mode === 'closed') return;
    this.#mode = 'closed';
    this.#response.end(this.#pending + commentText(why));
    this.#pending = '';
  }

  #flush(): void {
    if (this.#mode === 'closed' || this.#pending === '') return;
    this.#response.write(this.#pending);
    this.#pending = '';
    if (this.#response.writableLength > this.#backlogBytesMax) this.#fallBehind();
  }

  #fallBehind(): void {
    this.#mode = 'behind';
    this.#onBehind();
    this.#response.once('drain', () => {
      this.#stuckBeats = 0;
      this.#followRing('overflow');
    });
  }

  /** Writes what the ring has after `#sequence`, as far as the socket takes it. */
  #followRing(whenGone: ResetReason): void {
    if (this.#mode === 'closed') return;
    this.#mode = 'live';
    while (this.#isLive()) {
      const events = this.#events.since(this.#sequence, this.#wantsTelemetry(), CATCH_UP_EVENTS_MAX);
      if (events === undefined) {
        this.#reset(whenGone);
        return;
      }
      for (const numbered of events) {
        this.#sequence = numbered.sequence;
        if (this.#wants(numbered.event)) this.#pending += this.#textOf(numbered);
      }
      const isAll = events.length < CATCH_UP_EVENTS_MAX;
      if (isAll) this.#sequence = this.#events.sequence;
      this.#flush();
      if (isAll) return;
    }
  }

  #isLive(): boolean {
    return this.#mode === 'live';
  }

  #reset(reason: ResetReason): void {
    this.#sequence = this.#events.sequence;
    this.#pending += resetText(this.#id(this.#sequence), reason);
    this.#flush();
  }

  #wants(event: LiveEvent): boolean {
    const { types, devices, alertsOnly } = this.#filter;
    if (alertsOnly && event.type === 'presence' && !isAlert(event.from) && !isAlert(event.presence.state)) return false;
    return (types === undefined || types.has(event.type)) && (devices === undefined || devices.has(event.deviceId));
  }

  #wantsTelemetry(): boolean {
    return this.#filter.types === undefined || this.#filter.types.has('telemetry');
  }

  #id(sequence: number): string {
    return `${this.#events.runId}-${sequence}`;
  }

  #sequenceOf(lastEventId: string): number | ResetReason {
    const place = /^(.{1,64})-(\d{1,15})$/.exec(lastEventId);
    if (place?.[1] !== this.#events.runId) return 'other_run';
    return Number(place[2]);
  }
}
