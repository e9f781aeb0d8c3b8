import type { LiveEvent } from '../../broker/live-events.ts';
import { isAlert } from '../../devices/presence.ts';
import { commandView } from '../command-view.ts';
import { presenceView } from '../device-view.ts';
import { rfc3339, rfc3339OfNs } from '../times.ts';

/** Live events as server-sent events (WHATWG HTML, 9.2). */
export function eventText(id: string, event: LiveEvent): string {
  return `id: ${id}\nevent: ${event.type}\ndata: ${JSON.stringify(dataOf(event))}\n\n`;
}

/** Sets what the client will send as Last-Event-ID, and shows it no event. */
export function placeText(id: string): string {
  return `id: ${id}\n\n`;
}

export function commentText(text: string): string {
  return `: ${text}\n\n`;
}

/** Some events are lost to this stream: what the client shows is to be fetched anew. */
export function resetText(id: string, reason: ResetReason): string {
  return `id: ${id}\nevent: reset\ndata: ${JSON.stringify({ reason })}\n\n`;
}

/** `other_run`: the server was started anew; `too_old`: the events since are no longer kept; `overflow`: the client did not keep up. */
export type ResetReason = 'other_run' | 'too_old' | 'overflow';

function dataOf(event: LiveEvent): object {
  switch (event.type) {
    case 'telemetry':
      return { device: event.deviceId, time: rfc3339OfNs(BigInt(event.timeNs)), values: event.values };
    case 'command':
      return {
        device: event.deviceId,
        time: rfc3339(event.at),
        from: event.from,
        to: event.command.state,
        command: commandView(event.command),
      };
    case 'presence':
      return {
        device: event.deviceId,
        time: rfc3339(event.at),
        from: event.from,
        to: event.presence.state,
        alert: isAlert(event.presence.state),
        ...(isAlert(event.from) && !isAlert(event.presence.state) && { recovered: true }),
        presence: presenceView(event.presence, {}),
      };
  }
}
