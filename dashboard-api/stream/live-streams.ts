import type { ServerResponse } from 'node:http';
import type { BoundName } from '../../broker/bounds.ts';
import type { LiveEvents, NumberedEvent } from '../../broker/live-events.ts';
import type { OperatorAccess } from '../../broker/registry/operator-access.ts';
import type { Operator } from '../../broker/registry/operator.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { StreamLimits } from './device-streams.ts';
import { BEAT_MS } from './event-stream.ts';
import { LiveStream, type StreamFilter } from './live-stream.ts';
import { eventText } from './stream-text.ts';

/** All open streams: one subscription and one timer for them together, both gone while there is none. */
const RETRY_SECONDS = 30;

export class LiveStreams {
  readonly #events: LiveEvents;
  readonly #access: OperatorAccess;
  readonly #limits: StreamLimits;
  readonly #ofKey = new Map<string, number>();
  readonly #streams = new Set<LiveStream>();
  #stop: (() => void) | undefined;
  /** The event written last as text: streams mostly write the same one. */
  #last: { sequence: number; text: string } = { sequence: -1, text: '' };

  constructor(events: LiveEvents, access: OperatorAccess, limits: StreamLimits) {
    this.#events = events;
    this.#access = access;
    this.#limits = limits;
  }

  get size(): number {
    return this.#streams.size;
  }

  /** Throws `too_many_streams`. Call it before `open`, while the request can still be refused. */
  assertRoom({ id }: Operator): void {
    const { live_streams, live_streams_per_key } = this.#limits.bounds;
    if (this.#streams.size >= live_streams) {
      this.#refuse('live_streams', id, `${live_streams} live streams are open, as many as the server allows`);
    }
    if ((this.#ofKey.get(id) ?? 0) >= live_streams_per_key) {
      this.#refuse(
        'live_streams_per_key',
        id,
        `${live_streams_per_key} live streams of this key are open, as many as it may have`,
      );
    }
  }

  open(response: ServerResponse, options: { operator: Operator; filter: StreamFilter; lastEventId: string | undefined }): void {
    const { operator, filter, lastEventId } = options;
    const stream = new LiveStream(response, {
      keyId: operator.id,
      events: this.#events,
      filter,
      backlogBytesMax: this.#limits.bounds.stream_backlog_bytes,
      onBehind: () => this.#limits.reached('stream_backlog_bytes', { key: operator.id }),
      textOf: (numbered) => this.#textOf(numbered),
    });
    this.#streams.add(stream);
    this.#countOf(operator, 1);
    this.#start();
    const release = this.#access.watch(operator, (why) => stream.close(why));
    response.once('close', () => {
      release();
      stream.close('closed');
      this.#streams.delete(stream);
      this.#countOf(operator, -1);
      if (this.#streams.size === 0) this.#stop?.();
    });
    response.on('error', () => response.destroy());
    stream.open(lastEventId);
  }

  close(): void {
    for (const stream of this.#streams) stream.close('the server is stopping');
  }

  #refuse(bound: BoundName, key: string, message: string): never {
    this.#limits.reached(bound, { key });
    throw new DownlinkError('too_many_streams', message, { retryAfterSeconds: RETRY_SECONDS });
  }

  #countOf({ id }: Operator, by: 1 | -1): void {
    const count = (this.#ofKey.get(id) ?? 0) + by;
    if (count === 0) this.#ofKey.delete(id);
    else this.#ofKey.set(id, count);
  }

  #start(): void {
    if (this.#stop !== undefined) return;
    const unsubscribe = this.#events.subscribe((numbered) => {
      for (const stream of this.#streams) stream.take(numbered);
    });
    const timer = setInterval(() => {
      for (const stream of this.#streams) stream.beat();
    }, BEAT_MS).unref();
    this.#stop = () => {
      this.#stop = undefined;
      unsubscribe();
      clearInterval(timer);
    };
  }

  #textOf(numbered: NumberedEvent): string {
    const { sequence, event } = numbered;
    if (this.#last.sequence !== sequence) this.#last = { sequence, text: eventText(`${this.#events.runId}-${sequence}`, event) };
    return this.#last.text;
  }
}
