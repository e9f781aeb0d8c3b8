import type { ServerResponse } from 'node:http';
import type { NotifySession } from '../../broker/commands/notifier.ts';
import type { PushSession } from '../../broker/commands/push-line.ts';
import { commandMessage } from '../../devices/command-message.ts';
import type { Command } from '../../devices/command.ts';
import { isClogged } from '../departure.ts';
import { beginEventStream, RETRY_MS, STUCK_BEATS_MAX } from './event-stream.ts';
import { commentText } from './stream-text.ts';

/**
 * A device's stream of its commands. Each event's id is the cursor that stands for it and those before it on this stream, so that `Last-Event-ID`, or `since` with
 * a poll, confirms them.
 *
 * It keeps no queue: while the client has not read what was sent, it is full, and the commands stay in theirs.
 */
export type DeviceStreamParts = {
  /** The cursor that stands for what was handed over after `after` and up to `through`. */
  cursorOf(after: number, through: number): string;
  nextHandover(): number;
  /** What may wait in the socket: beyond it come a command at the most, and a notification. */
  readonly backlogBytesMax: number;
  /** It is full, and then full no more. */
  onFull(): void;
  onDrain(): void;
};

export class DeviceStream implements PushSession, NotifySession {
  readonly deviceId: string;
  readonly transport = 'sse';
  readonly #response: ServerResponse;
  readonly #parts: DeviceStreamParts;
  #after = 0;
  #stuckBeats = 0;
  #isTold = false;
  #isClosed = false;

  constructor(deviceId: string, response: ServerResponse, parts: DeviceStreamParts) {
    this.deviceId = deviceId;
    this.#response = response;
    this.#parts = parts;
  }

  get isFull(): boolean {
    return this.#isClosed || this.#response.writableLength > this.#parts.backlogBytesMax;
  }

  open(): void {
    beginEventStream(this.#response);
    this.#response.write(`retry: ${RETRY_MS}\n\n`);
    this.#response.on('drain', () => {
      this.#stuckBeats = 0;
      this.#isTold = false;
      this.#parts.onDrain();
    });
  }

  /** What another stream was handed over in between is not for this one's cursors to confirm. */
  begin(): void {
    this.#after = this.#parts.nextHandover();
  }

  push(command: Command): void {
    const { handover } = command;
    if (this.#isClosed || handover === undefined) return;
    const id = this.#parts.cursorOf(this.#after, handover);
    this.#response.write(`id: ${id}\nevent: command\ndata: ${JSON.stringify(commandMessage(command))}\n\n`);
    if (!this.isFull || this.#isTold) return;
    this.#isTold = true;
    this.#parts.onFull();
  }

  notify(pending: number, isUrgent: boolean): boolean {
    if (this.isFull) return false;
    this.#response.write(`event: notify\ndata: ${JSON.stringify({ pending, urgent: isUrgent })}\n\n`);
    return true;
  }

  /** Called regularly: keeps the connection alive, and gives up on a client that reads nothing. */
  beat(): void {
    if (this.#isClosed) return;
    if (!isClogged(this.#response)) {
      this.#response.write(commentText('beat'));
      return;
    }
    this.#stuckBeats += 1;
    if (this.#stuckBeats >= STUCK_BEATS_MAX) this.#response.destroy();
  }

  /** Ends it with a word about why, and about when to come back. */
  close(why: string, retryMs = RETRY_MS): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#response.end(`retry: ${retryMs}\n${commentText(why)}`);
  }
}
