import { HOUR_MS } from '../../../devices/clock.ts';
import { DEFAULT_BOUNDS, type BoundName, type Bounds } from '../../bounds.ts';

/** How much is kept for programs on MQTT. What comes beyond is dropped or refused as said here, and counted by the name of the bound. */
export type SessionBounds = {
  /** Sessions that outlive their connection (clean session 0); a new one beyond is refused with CONNACK 3. */
  readonly sessionsMax: number;
  /** A session that nobody came back to for this long is forgotten, with its subscriptions and its queue. */
  readonly sessionUnseenMsMax: number;
  /** Of one session; a filter beyond is refused with SUBACK 0x80. */
  readonly subscriptionsMax: number;
  /** Messages with QoS 1 or 2 that were sent to one program and are yet to be acknowledged; the rest waits in the queue. */
  readonly inFlightMax: number;
  /** What waits in the socket of a program that does not read: QoS 0 beyond it is dropped, the rest waits in the queue. */
  readonly backlogBytesMax: number;
  /** Messages of QoS 2 that one program has not released; one more ends its connection. */
  readonly receivedMessagesMax: number;
  /** Messages of QoS 1 and 2 that wait for one program; the oldest that was not sent yet makes room for the newest. */
  readonly queuedMessagesMax: number;
  /** Their octets, all programs together; a program drops its own oldest, or the new one where it has no other. */
  readonly queuedBytesMax: number;
  /** Retained messages; one of another topic beyond is delivered but not retained. */
  readonly retainedMessagesMax: number;
  /** Their octets in all, likewise. */
  readonly retainedBytesMax: number;
};

/** Which bound of the table each is. */
export const BOUND_OF: Readonly<Record<keyof SessionBounds, BoundName>> = {
  sessionsMax: 'sessions',
  sessionUnseenMsMax: 'session_hours',
  subscriptionsMax: 'subscriptions',
  inFlightMax: 'in_flight',
  backlogBytesMax: 'backlog_bytes',
  receivedMessagesMax: 'received_messages',
  queuedMessagesMax: 'queued_messages',
  queuedBytesMax: 'queued_bytes',
  retainedMessagesMax: 'retained_messages',
  retainedBytesMax: 'retained_bytes',
};

export function sessionBoundsOf(bounds: Bounds): SessionBounds {
  return {
    sessionsMax: bounds.sessions,
    sessionUnseenMsMax: bounds.session_hours * HOUR_MS,
    subscriptionsMax: bounds.subscriptions,
    inFlightMax: bounds.in_flight,
    backlogBytesMax: bounds.backlog_bytes,
    receivedMessagesMax: bounds.received_messages,
    queuedMessagesMax: bounds.queued_messages,
    queuedBytesMax: bounds.queued_bytes,
    retainedMessagesMax: bounds.retained_messages,
    retainedBytesMax: bounds.retained_bytes,
  };
}

export const SESSION_BOUNDS: SessionBounds = sessionBoundsOf(DEFAULT_BOUNDS);

/** Told of each thing that a bound turned away, and when one begins to hold back; of whose, where it is known. */
export type OnReached = (bound: keyof SessionBounds, clientId?: string) => void;
