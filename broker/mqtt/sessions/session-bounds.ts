import { HOUR_MS } from '../../../devices/clock.ts';

/** How much is kept for programs on MQTT. What comes beyond is dropped or refused as said here, and counted by the name of the bound. */
export type SessionBounds = {
  /** Sessions that outlive their connection (clean session 0); a new one beyond is refused with CONNACK 3. */
  readonly sessionsMax: number;
  /** A session that nobody came back to for this long is forgotten, with its subscriptions and its queue. */
  readonly sessionUnseenMsMax: number;
  /** Of one session; a filter beyond is refused with SUBACK 0x80. */
  readonly subscriptionsMax: number;
  /** Messages of QoS 1 and 2 that wait for one program; the oldest that was not sent yet makes room for the newest. */
  readonly queuedMessagesMax: number;
  /** Their octets, all programs together; a program drops its own oldest, or the new one where it has no other. */
  readonly queuedBytesMax: number;
  /** Retained messages; one of another topic beyond is delivered but not retained. */
  readonly retainedMessagesMax: number;
  /** Their octets in all, likewise. */
  readonly retainedBytesMax: number;
};

export const SESSION_BOUNDS: SessionBounds = {
  sessionsMax: 10_000,
  sessionUnseenMsMax: 7 * 24 * HOUR_MS,
  subscriptionsMax: 1_000,
  queuedMessagesMax: 1_000,
  queuedBytesMax: 64 * 1024 * 1024,
  retainedMessagesMax: 10_000,
  retainedBytesMax: 64 * 1024 * 1024,
};

/** Told of each thing that a bound turned away. */
export type OnDropped = (bound: keyof SessionBounds) => void;
