import { Type } from 'typebox';
import type { Api, ApiParts } from '../api-parts.ts';
import { deviceAuth, deviceOf } from '../auth-device.ts';
import { hasGone } from '../departure.ts';
import { BY_DEVICE, guardedProblems, TAGS } from '../openapi.ts';
import type { DeviceStreams } from '../stream/device-streams.ts';

/** Commands as server-sent events, for devices that stay connected by HTTP. */
const lastEventIdSchema = Type.Optional(Type.String({ maxLength: 512 }));

export function deviceEventsRoutes(app: Api, parts: ApiParts, streams: DeviceStreams): void {
  const { dispatcher } = parts;
  app.get(
    '/v1/device/events',
    {
      onRequest: deviceAuth(parts),
      schema: {
        tags: [TAGS.wire],
        security: BY_DEVICE,
        operationId: 'followCommands',
        summary: 'Commands as they come',
        description: [
          'Server-sent events, with a comment every 15 s:',
          '- `command`: a command as in a poll, leased. Its `id` is a cursor that stands for it and all before it on this stream.',
          '- `notify` `{"pending","urgent"}`: so many commands wait for your poll, because they are larger than `limits.pushBytes` of the device.',
          '',
          'Your report confirms a command; so does its id, as `Last-Event-ID` of the next stream or as `since` of a poll. At most eight are unconfirmed at a time; ' +
            'one that is not confirmed in time is sent again. A wrong `Last-Event-ID` is refused: start again without it.',
          '',
          '`lastEventId` is for those who cannot set headers. Two streams of a device may be open; the newer one gets what comes.',
        ].join('\n'),
        querystring: Type.Object({ lastEventId: lastEventIdSchema }, { additionalProperties: false }),
        headers: Type.Object({ 'last-event-id': lastEventIdSchema }),
        response: {
          200: { description: 'The stream', content: { 'text/event-stream': { schema: Type.String() } } },
          ...guardedProblems('invalid_cursor', 'too_many_streams', 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const device = deviceOf(request);
      const header = request.headers['last-event-id'];
      const lastEventId = header ?? request.query.lastEventId;
      streams.assertRoom(device);
      // What the old stream had is for this one, and not to be sent down the old one once more.
      const resume = dispatcher.pause(device.id);
      try {
        // Browsers send an empty one after a stream without ids.
        if (lastEventId !== undefined && lastEventId !== '') {
          await streams.confirm(device, lastEventId, header === undefined ? 'query.lastEventId' : 'Last-Event-ID');
          streams.assertRoom(device);
        }
        reply.hijack();
        if (!hasGone(reply)) streams.open(device, reply.raw);
      } finally {
        resume();
      }
    },
  );
}
