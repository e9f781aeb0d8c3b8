import { Type } from 'typebox';
import type { Device } from '../../devices/device.ts';
import { MESSAGE_BYTES_MAX, readingsIn, type Sample } from '../../devices/telemetry.ts';
import { decodeTelemetry, isTelemetryMediaType, TELEMETRY_MEDIA_TYPES } from '../../devices/telemetry-formats.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { deviceAuth, deviceOf } from '../auth-device.ts';
import { answerFormatOf, sendAnswer } from '../device-answer.ts';
import { idempotencyKeyHeader } from '../idempotency-key.ts';
import { mediaTypeOf, octetsOf, wrongMediaType } from '../json-body.ts';
import { BY_DEVICE, guardedProblems, TAGS } from '../openapi.ts';
import { bodyDecodedByRoute } from '../validation.ts';

/** Telemetry by HTTP: 202 once all of it is durable, or nothing of it is stored. */
const sampleSchema = {
  anyOf: [
    { type: 'object', description: '{"temperature":21.5}: taken at the server\'s time' },
    {
      type: 'object',
      description: '{"ts":1700000000000,"values":{"temperature":21.5}}: at the device\'s time, epoch milliseconds',
    },
    { type: 'array', description: 'Of either' },
  ],
  examples: [
    [
      { temperature: 21.5, ok: true },
      { ts: 1_700_000_000_000, values: { temperature: 21.4 } },
    ],
  ],
};
const senmlSchema = {
  type: 'array',
  description: 'A SenML pack (RFC 8428); the name of a record is the metric, units are ignored',
  examples: [[{ bn: 'urn:dev:mac:0024befffe804ff1:', n: 'temperature', u: 'Cel', v: 21.5 }]],
};
const acceptedSchema = Type.Object({ accepted: Type.Integer({ description: 'Readings' }) }, { examples: [{ accepted: 2 }] });
const octets = { type: 'string', format: 'binary' };

export function deviceTelemetryRoutes(app: Api, parts: ApiParts): void {
  const { ingest, telemetryKeys, pace, presence, metrics, clock } = parts;
  const messages = metrics.messages.labels('http', 'telemetry');
  const readings = metrics.readings.labels('http');

  const take = async (
    device: Device,
    samples: readonly Sample[],
    idempotencyKey: string | undefined,
  ): Promise<{ accepted: number; isRepeat: boolean }> => {
    if (idempotencyKey === undefined) return { accepted: await ingest.take(device, samples), isRepeat: false };
    await telemetryKeys.load(device.id);
    const under = telemetryKeys.look(device.id, idempotencyKey, samples, readingsIn(samples));
    if (under.isRepeat) return { accepted: await under.count, isRepeat: true };
    return { accepted: await under.take(ingest.take(device, samples, under.changes)), isRepeat: false };
  };

  app.post(
    '/v1/device/telemetry',
    {
      onRequest: deviceAuth(parts),
      bodyLimit: MESSAGE_BYTES_MAX,
      validatorCompiler: bodyDecodedByRoute,
      schema: {
        tags: [TAGS.wire],
        security: BY_DEVICE,
        operationId: 'sendTelemetry',
        summary: 'Send telemetry',
        description:
          'At most 1,000 readings and 256 KiB. Answers once all of it is on disk; of a message at fault nothing is stored, and `at` names the place. ' +
          'The same `ts` and metric again is the same reading. With an `Idempotency-Key`, the same message again is stored once, also without `ts`: the answer is as the ' +
          'first, with the header `Idempotency-Replayed: true`.',
        headers: idempotencyKeyHeader,
        body: {
          content: {
            'application/json': { schema: sampleSchema },
            'application/cbor': { schema: octets },
            'application/senml+json': { schema: senmlSchema },
            'application/senml+cbor': { schema: octets },
          },
        },
        response: {
          202: {
            description: 'On disk; in CBOR where `Accept` says so',
            content: { 'application/json': { schema: acceptedSchema }, 'application/cbor': { schema: acceptedSchema } },
          },
          ...guardedProblems(
            'invalid_json',
            'invalid_telemetry',
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
      const mediaType = mediaTypeOf(request);
      if (!isTelemetryMediaType(mediaType)) throw wrongMediaType(mediaType, TELEMETRY_MEDIA_TYPES);
      const body = octetsOf(request);
      const samples = decodeTelemetry(mediaType, body, clock.now());
      messages.inc();
      const { accepted, isRepeat } = await take(device, samples, request.headers['idempotency-key']);
      if (isRepeat) {
        reply.header('idempotency-replayed', 'true');
      } else {
        readings.inc(accepted);
        await pace.wait(body.length);
      }
      sendAnswer(reply, answerFormatOf(request), 202, { accepted });
      return reply;
    },
  );
}
