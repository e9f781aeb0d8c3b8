import { Type } from 'typebox';
import { reportCommand } from '../../broker/commands/report-command.ts';
import { octetsAsBase64 } from '../../devices/cbor.ts';
import { COMMAND_STATES } from '../../devices/command.ts';
import { parseReport, REPORT_STATES } from '../../devices/report.ts';
import { SLEEP_REASONS } from '../../devices/sleep-hint.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { deviceAuth, deviceOf } from '../auth-device.ts';
import { answerFormatOf, sendAnswer } from '../device-answer.ts';
import { DevicePoll } from '../device-poll.ts';
import { BODY_BYTES_MAX, deviceBodyOf } from '../json-body.ts';
import { BY_DEVICE, guardedProblems, noContent, TAGS, timeSchema } from '../openapi.ts';
import { pullParameters, WAIT_SECONDS_MAX } from '../pull-parameters.ts';
import { bodyDecodedByRoute } from '../validation.ts';

/** Commands by HTTP: a device pulls what is queued for it and reports what came of it. */
const messageSchema = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    params: Type.Optional(Type.Unknown()),
    payload: Type.Optional(Type.String({ description: 'Octets as base64, in place of params' })),
    contentType: Type.Optional(Type.String()),
    attempt: Type.Integer({ description: '1 the first time it is handed over' }),
    issuedAt: timeSchema,
    expiresAt: Type.Optional(timeSchema),
  },
  {
    examples: [
      {
        id: '019b76da-a800-7000-8000-000000000001',
        name: 'set_interval',
        params: { seconds: 900 },
        attempt: 1,
        issuedAt: '2026-01-01T00:00:00.000Z',
        expiresAt: '2026-01-02T00:00:00.000Z',
      },
    ],
  },
);

const sleepSchema = Type.Object({
  untilSeconds: Type.Integer({
    description: 'How long the device may sleep; 0 when there is more to pull. `Retry-After` says the same',
  }),
  wakeAt: timeSchema,
  reason: Type.Enum([...SLEEP_REASONS]),
});

/** What every answer with commands has. */
export const pulledFields = {
  commands: Type.Array(messageSchema),
  more: Type.Boolean({ description: 'There is more that fits into such an answer: come again at once' }),
  cursor: Type.String({ description: 'Give it as `since` when you next come' }),
  sleep: sleepSchema,
};

const reportSchema = Type.Object(
  {
    state: Type.Enum([...REPORT_STATES]),
    result: Type.Optional(Type.Unknown({ description: 'Any JSON, at most 16 KiB' })),
    progress: Type.Optional(Type.Number({ minimum: 0, maximum: 100 })),
    message: Type.Optional(Type.String({ maxLength: 1_024 })),
  },
  { additionalProperties: false, examples: [{ state: 'succeeded', result: { seconds: 900 } }] },
);

const pulledSchema = Type.Object(pulledFields);
const takenSchema = Type.Object({ id: Type.String(), state: Type.Enum([...COMMAND_STATES]) });

export function deviceCommandsRoutes(app: Api, parts: ApiParts): void {
  const { presence, ledger, metrics } = parts;
  const onRequest = deviceAuth(parts);
  const tags = [TAGS.wire];
  const reports = metrics.messages.labels('http', 'report');
  const polls = { 200: metrics.polls.labels('200'), 204: metrics.polls.labels('204'), 304: metrics.polls.labels('304') };
  const pollParts = { ...parts, polls };

  app.get(
    '/v1/device/commands',
    {
      onRequest,
      schema: {
        tags,
        security: BY_DEVICE,
        operationId: 'pullCommands',
        summary: 'Pull commands',
        description: [
          'Leases what is queued, the most urgent first. Carry each out once (its `id` tells a repeat) and report; what is not confirmed in time is ' +
            'handed out again. Your report confirms a command, and so does the `cursor` of its answer, given as `since` with the next poll. 204 when there is none, with ' +
            '`Retry-After` from the schedule of the device.',
          'With `wait` the poll waits for a command. With `If-None-Match` or `If-Modified-Since` from an earlier `ETag` or `Last-Modified` the answer is 304 when nothing ' +
            'has changed; with `wait` as well, it waits for a change.',
        ].join('\n\n'),
        querystring: Type.Object(
          {
            ...pullParameters,
            wait: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: WAIT_SECONDS_MAX,
                default: 0,
                description: 'Seconds to wait for a command when there is none',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        headers: Type.Object({
          'if-none-match': Type.Optional(Type.String({ description: 'One or more tags; compared weakly' })),
          'if-modified-since': Type.Optional(Type.String()),
        }),
        response: {
          200: {
            description: 'Leased. In CBOR where `Accept` says so; `payload` is then octets',
            content: { 'application/json': { schema: pulledSchema }, 'application/cbor': { schema: pulledSchema } },
          },
          204: noContent('Nothing is queued; sleep for `Retry-After` seconds'),
          304: noContent('Nothing has changed since; sleep for `Retry-After` seconds'),
          ...guardedProblems('invalid_cursor', 'storage_unavailable'),
        },
      },
    },
    (request, reply) => new DevicePoll(pollParts, request, reply, request.query).begin(),
  );

  app.post(
    '/v1/device/commands/:id',
    {
      onRequest,
      bodyLimit: BODY_BYTES_MAX,
      validatorCompiler: bodyDecodedByRoute,
      schema: {
        tags,
        security: BY_DEVICE,
        operationId: 'reportCommand',
        summary: 'Report what came of a command',
        description:
          'Answers once the new state is on disk, with the state that holds now. The same report again is fine. JSON or CBOR, in and out.',
        params: Type.Object({ id: Type.String({ maxLength: 128 }) }),
        body: { content: { 'application/json': { schema: reportSchema }, 'application/cbor': { schema: reportSchema } } },
        response: {
          200: {
            description: 'Taken; in JSON or CBOR, as `Accept` says, else as the body was',
            content: { 'application/json': { schema: takenSchema }, 'application/cbor': { schema: takenSchema } },
          },
          ...guardedProblems(
            'invalid_json',
            'invalid_report',
            'unknown_command',
            'command_finished',
            'body_too_large',
            'unsupported_media_type',
            'storage_unavailable',
          ),
        },
      },
    },
    async (request, reply) => {
      const device = deviceOf(request);
      presence.contact(device.id);
      const { value, format } = deviceBodyOf(request);
      const report = parseReport(format === 'json' ? value : octetsAsBase64(value));
      reports.inc();
      const { id, state } = await reportCommand(ledger, device.id, request.params.id, report, 'http');
      sendAnswer(reply, answerFormatOf(request, format), 200, { id, state });
      return reply;
    },
  );
}
