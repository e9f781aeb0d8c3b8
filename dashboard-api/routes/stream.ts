import { Type } from 'typebox';
import { LIVE_EVENT_TYPES, type LiveEventType } from '../../broker/live-events.ts';
import { isDeviceId } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { operatorAuth, operatorOf } from '../auth-operator.ts';
import { BY_OPERATOR, guardedProblems, TAGS } from '../openapi.ts';
import type { LiveStreams } from '../stream/live-streams.ts';

/** The live stream of telemetry, commands and presence, as server-sent events. */
const DEVICES_MAX = 1_000;

export function streamRoutes(app: Api, parts: ApiParts, streams: LiveStreams): void {
  app.get(
    '/v1/stream',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags: [TAGS.stream],
        security: BY_OPERATOR,
        operationId: 'followStream',
        summary: 'What happens, as it happens',
        description: [
          'Role: viewer. Server-sent events, with a comment every 15 s:',
          '- `telemetry` `{"device","time","values"}`',
          '- `command` `{"device","time","from","to","command"}`; `from` is `none` for one just issued',
          '- `presence` `{"device","time","from","to","alert","recovered"?,"presence"}`; `alert` is true for `late`, `missed` and `lost`, `recovered` is there ' +
            'where one of them ends. What is undone within 5 s (a session that drops and returns, the pause between two long polls) is not told',
          '- `reset` `{"reason"}`: events were missed, so fetch anew what you show. `other_run`: the server was started anew; `too_old`: they are no ' +
            'longer kept; `overflow`: you read slower than they came.',
          '',
          '`Last-Event-ID`, or the parameter `lastEventId` for those who cannot set headers, goes on where a stream was cut.',
        ].join('\n'),
        querystring: Type.Object(
          {
            type: Type.Optional(
              Type.Array(Type.String({ maxLength: 64 }), {
                maxItems: 8,
                description: `Of ${LIVE_EVENT_TYPES.join(', ')}; repeated or with commas between; all when absent`,
              }),
            ),
            device: Type.Optional(
              Type.Array(Type.String(), {
                maxItems: DEVICES_MAX,
                description: 'Device ids; repeated or with commas between; all when absent',
              }),
            ),
            alert: Type.Optional(
              Type.Boolean({
                description: 'Only what raises, changes or ends an alert of presence; with `type`, other types as well',
              }),
            ),
            lastEventId: Type.Optional(Type.String({ maxLength: 128 })),
          },
          { additionalProperties: false },
        ),
        headers: Type.Object({ 'last-event-id': Type.Optional(Type.String({ maxLength: 128 })) }),
        response: {
          200: { description: 'The stream', content: { 'text/event-stream': { schema: Type.String() } } },
          ...guardedProblems('too_many_streams'),
        },
      },
    },
    (request, reply) => {
      const { type, device, alert, lastEventId } = request.query;
      const given = type ?? (alert ? ['presence'] : undefined);
      const types = given && new Set(listed(given, 'type', isEventType, `none of ${LIVE_EVENT_TYPES.join(', ')}`));
      const devices = device && new Set(listed(device, 'device', isIdText, 'no device id'));
      streams.assertRoom(operatorOf(request));
      reply.hijack();
      streams.open(reply.raw, {
        operator: operatorOf(request),
        filter: { ...(types && { types }), ...(devices && { devices }), ...(alert && { alertsOnly: alert }) },
        lastEventId: request.headers['last-event-id'] ?? lastEventId,
      });
    },
  );
}

/** Repeated values and those with commas between as one list. */
function listed<T extends string>(given: readonly string[], name: string, is: (text: string) => text is T, fault: string): T[] {
  return given
    .flatMap((text) => text.split(','))
    .map((text) => {
      if (is(text)) return text;
      throw new DownlinkError('invalid_request', `query.${name}: ${text.slice(0, 64) || 'an empty value'} is ${fault}`, {
        at: `query.${name}`,
      });
    });
}

function isEventType(text: string): text is LiveEventType {
  return (LIVE_EVENT_TYPES as readonly string[]).includes(text);
}

function isIdText(text: string): text is string {
  return isDeviceId(text);
}
