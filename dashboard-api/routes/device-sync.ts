import { Type } from 'typebox';
import type { SyncRefusal } from '../../broker/commands/sync.ts';
import { REPORT_STATES } from '../../devices/report.ts';
import { parseSync, SYNC_BYTES_MAX, SYNC_CONFIRMS_MAX, SYNC_REPORTS_MAX } from '../../devices/sync-message.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { deviceAuth, deviceOf } from '../auth-device.ts';
import { type AnswerEncoder, answerEncoderFor } from '../device-answer.ts';
import { pullRequestOf, releaseIfLost } from '../device-poll.ts';
import { idempotencyKeyHeader } from '../idempotency-key.ts';
import { deviceBodyOf } from '../json-body.ts';
import { BY_DEVICE, guardedProblems, TAGS, timeSchema } from '../openapi.ts';
import { pullParameters } from '../pull-parameters.ts';
import { keepReject } from '../reject-keeper.ts';
import { rfc3339 } from '../times.ts';
import { bodyDecodedByRoute } from '../validation.ts';
import { pulledFields } from './device-commands.ts';

/** The whole wake in one round trip: telemetry, reports and confirms in, commands, time and sleep out. */
/** Of `,"refused":[]`, with some to spare. */
const REFUSED_FIELD_BYTES = 16;

const syncSchema = Type.Object(
  {
    telemetry: Type.Optional(Type.Unknown({ description: 'As the body of `POST /v1/device/telemetry`, in JSON or CBOR' })),
    reports: Type.Optional(
      Type.Array(
        Type.Object({
          id: Type.String({ description: 'Of the command' }),
          state: Type.Enum([...REPORT_STATES]),
          result: Type.Optional(Type.Unknown({ description: 'Any JSON, at most 16 KiB; octets in CBOR become base64' })),
          progress: Type.Optional(Type.Number({ minimum: 0, maximum: 100 })),
          message: Type.Optional(Type.String({ maxLength: 1_024 })),
        }),
        { maxItems: SYNC_REPORTS_MAX },
      ),
    ),
    confirms: Type.Optional(
      Type.Array(Type.String(), { maxItems: SYNC_CONFIRMS_MAX, description: 'Ids of commands that you have and will carry out' }),
    ),
    ...pullParameters,
    sentAt: Type.Optional(
      Type.Unsafe<number | string>({
        type: ['number', 'string'],
        description:
          'What your clock shows as you send this, epoch milliseconds or RFC 3339. When that is further off than a `ts` may be, each `ts` is moved by ' +
          'the difference and the given one kept as `givenTs`',
      }),
    ),
  },
  {
    additionalProperties: false,
    examples: [
      {
        telemetry: [{ ts: 1_767_225_600_000, values: { temperature: 21.5 } }],
        reports: [{ id: '019b76da-a800-7000-8000-000000000001', state: 'succeeded', result: { seconds: 900 } }],
        limit: 10,
        maxBytes: 4_096,
      },
    ],
  },
);

const answerSchema = Type.Object(
  {
    time: Type.Unsafe<string>({ ...timeSchema, description: "The server's time, to set your clock by" }),
    ...pulledFields,
    refused: Type.Optional(
      Type.Array(Type.Object({ at: Type.String(), id: Type.String(), code: Type.String(), message: Type.String() }), {
        description:
          'Reports and confirms that did not count, as many as fit: of commands that are not yours (`unknown_command`) or ended otherwise (`command_finished`). All ' +
          'else counted; do not send these again',
      }),
    ),
  },
  { description: 'Commands, leased as by a poll' },
);

export function deviceSyncRoutes(app: Api, parts: ApiParts): void {
  const { sync, pull, presence, metrics, clock } = parts;
  const messages = metrics.messages.labels('http', 'telemetry');
  const reports = metrics.messages.labels('http', 'report');
  const readings = metrics.readings.labels('http');

  app.post(
    '/v1/device/sync',
    {
      onRequest: deviceAuth(parts),
      bodyLimit: SYNC_BYTES_MAX,
      validatorCompiler: bodyDecodedByRoute,
      schema: {
        tags: [TAGS.wire],
        security: BY_DEVICE,
        operationId: 'sync',
        summary: 'A whole wake in one round trip',
        description:
          'Takes telemetry, reports and confirms, all of it or nothing, and answers with commands once that is on disk. What is at fault is named by `at`, as in ' +
          '`telemetry[2].values.temperature` or `reports[1].progress`. Sending it again after a lost answer is fine: readings with a `ts`, reports and ' +
          'confirms count once; readings without one do under an `Idempotency-Key`.',
        headers: idempotencyKeyHeader,
        body: { content: { 'application/json': { schema: syncSchema }, 'application/cbor': { schema: syncSchema } } },
        response: {
          200: {
            description: 'Commands, leased as by a poll, in JSON or CBOR: as `Accept` says, else as the body was',
            content: { 'application/json': { schema: answerSchema }, 'application/cbor': { schema: answerSchema } },
          },
          ...guardedProblems(
            'invalid_json',
            'invalid_telemetry',
            'invalid_report',
            'invalid_cursor',
            'idempotency_conflict',
            'body_too_large',
            'unsupported_media_type',
            'journal_full',
            'storage_unavailable',
          ),
        },
      },
    },
    async (request, reply) => {
      const device = deviceOf(request);
      presence.contact(device.id);
      const { value, format: standard } = deviceBodyOf(request);
      const message = parseSync(value);
      if (message.samples.length > 0) messages.inc();
      reports.inc(message.reports.length);

      const taken = await sync.take(device, message, request.headers['idempotency-key']);
      if (taken.isRepeat) reply.header('idempotency-replayed', 'true');
      else readings.inc(taken.readings);
      await Promise.all(
        taken.refused.map(({ at, id, error }) =>
          keepReject(parts, device.id, { where: `${request.url} ${at}`, body: Buffer.from(id) }, error),
        ),
      );

      const time = rfc3339(clock.now());
      const refused = refusalsThatFit(taken.refused, message.maxBytes, () =>
        answerEncoderFor(request, { standard, more: { time } }),
      );
      const encoder = answerEncoderFor(request, { standard, more: { time, ...(refused.length > 0 && { refused }) } });
      const pulled = pull.lease(device, pullRequestOf(message, encoder));
      releaseIfLost(reply, parts, pulled.commands);
      reply.header('retry-after', pulled.sleep.untilSeconds);
      encoder.send(reply, 200, pulled);
      return reply;
    },
  );
}

type RefusalView = { readonly at: string; readonly id: string; readonly code: string; readonly message: string };

/** As many as an answer may hold, counted in JSON, which is never shorter than CBOR here. The others the operator sees all the same. */
function refusalsThatFit(
  refused: readonly SyncRefusal[],
  maxBytes: number | undefined,
  without: () => AnswerEncoder,
): RefusalView[] {
  const views = refused.map(({ at, id, error }) => ({ at, id, code: error.code, message: error.message }));
  if (views.length === 0 || maxBytes === undefined) return views;
  let left = maxBytes - without().envelopeBytes - REFUSED_FIELD_BYTES;
  const end = views.findIndex((view) => (left -= Buffer.byteLength(JSON.stringify(view)) + 1) < 0);
  return end < 0 ? views : views.slice(0, end);
}
