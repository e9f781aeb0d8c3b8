import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger';
import { Type, type Static, type TSchema } from 'typebox';
import { ERROR_CODES, type ErrorCode } from '../devices/error-codes.ts';
import { PAGE_DEFAULT, PAGE_MAX } from './cursor.ts';
import { PROBLEM_TYPE, STATUS_OF } from './problem.ts';

/** What the OpenAPI document says beside the routes' own schemas, and the pieces that routes build theirs from. */
export const TAGS = {
  devices: 'Devices',
  commands: 'Commands',
  telemetry: 'Telemetry',
  stream: 'Live stream',
  refused: 'What was refused',
  keys: 'Operator keys',
  provisioning: 'Provisioning',
  audit: 'Audit',
  wire: 'For devices',
  server: 'Server',
} as const;

const OPERATOR_KEY = 'operatorKey';
const DEVICE_TOKEN = 'deviceToken';
const DEVICE_BASIC = 'deviceBasic';
const FLEET_KEY = 'fleetKey';

export const BY_OPERATOR = [{ [OPERATOR_KEY]: [] }];
export const BY_FLEET_KEY = [{ [FLEET_KEY]: [] }];
export const BY_DEVICE = [{ [DEVICE_TOKEN]: [] }, { [DEVICE_BASIC]: [] }];

export function openapiOptions(version: string): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Downlink',
        version,
        license: { name: 'MIT', identifier: 'MIT' },
        description:
          'Commands for devices and telemetry from them. Operators use a key, devices their token. Times are RFC 3339 in UTC. ' +
          'Errors are problem documents (RFC 9457) with a stable `code`; `at` names the field, parameter or header at fault. ' +
          'Fields and parameters that a route does not know are refused, not ignored.',
      },
      tags: [
        { name: TAGS.devices, description: 'Register devices, see when they were last heard of and when they wake' },
        { name: TAGS.commands, description: 'Issue commands and see what came of them' },
        { name: TAGS.telemetry, description: 'Readings: raw, in windows, and the latest' },
        { name: TAGS.stream, description: 'What happens, as it happens' },
        { name: TAGS.refused, description: 'What devices sent and History got that could not be taken, and why' },
        { name: TAGS.keys, description: 'Who may use this API' },
        { name: TAGS.provisioning, description: 'Devices that register themselves, with a fleet key' },
        { name: TAGS.audit, description: 'Who did what' },
        { name: TAGS.wire, description: 'Telemetry up, commands down, for devices that come by HTTP' },
        { name: TAGS.server, description: 'Is it up, can it do its job, how is it doing' },
      ],
      components: {
        securitySchemes: {
          [OPERATOR_KEY]: {
            type: 'http',
            scheme: 'bearer',
            description: 'A key `dlk_…` with the role viewer, operator or admin, or a token of the identity provider',
          },
          [FLEET_KEY]: {
            type: 'http',
            scheme: 'bearer',
            description: 'A fleet key `dlf_…`, with which a device registers itself',
          },
          [DEVICE_TOKEN]: { type: 'http', scheme: 'bearer', description: "A device's token `dld_…`" },
          [DEVICE_BASIC]: { type: 'http', scheme: 'basic', description: 'A device id and its token' },
        },
      },
    },
    refResolver: {
      buildLocalReference: (json, _base, _fragment, i) => (typeof json['$id'] === 'string' ? json['$id'] : `schema-${i}`),
    },
  };
}

/** A schema of its own name in the document, to be added to the app once and referred to by `refTo`. */
export function refTo<S extends TSchema>(schema: S & { $id?: string }, description?: string) {
  return Type.Unsafe<Static<S>>({ $ref: `${schema.$id}#`, ...(description !== undefined && { description }) });
}

/** The answer 204. */
export function noContent(description: string) {
  return Type.Unsafe<undefined>({ type: 'null', description });
}

export const problemSchema = Type.Object(
  {
    type: Type.String({ description: 'urn:downlink:problem: and the code' }),
    title: Type.String({ description: 'What the code means' }),
    status: Type.Integer(),
    detail: Type.String({ description: 'What was wrong here; for people, and free to change' }),
    code: Type.Enum(Object.keys(ERROR_CODES), { description: 'Stable' }),
    at: Type.Optional(Type.String({ description: 'The field, parameter or header at fault' })),
    nextWakeAt: Type.Optional(
      Type.String({ format: 'date-time', description: 'With `expires_before_next_wake`: when the device is expected' }),
    ),
    expiresInSecondsMin: Type.Optional(
      Type.Integer({ description: 'With `expires_before_next_wake`: the least `expires.inSeconds` that reaches that wake' }),
    ),
  },
  {
    $id: 'Problem',
    examples: [
      {
        type: 'urn:downlink:problem:unknown_device',
        title: ERROR_CODES.unknown_device,
        status: 404,
        detail: 'no device has the id pump-9',
        code: 'unknown_device',
      },
    ],
  },
);

/** The problem documents that a route answers with, by status; those that every route shares go without saying. */
export function problems(...codes: readonly ErrorCode[]): Record<string, object> {
  const byStatus: Record<string, { description: string; content: object }> = {};
  for (const code of new Set<ErrorCode>([...codes, 'internal', 'shutting_down'])) {
    const text = `\`${code}\`: ${ERROR_CODES[code]}`;
    const had = byStatus[STATUS_OF[code]];
    byStatus[STATUS_OF[code]] = {
      description: had === undefined ? text : `${had.description}\n\n${text}`,
      content: { [PROBLEM_TYPE]: { schema: refTo(problemSchema) } },
    };
  }
  return byStatus;
}

/** What a body may be refused for before its fields are looked at. */
export const JSON_BODY_PROBLEMS = ['invalid_json', 'body_too_large', 'unsupported_media_type'] as const;

/** As `problems`, for routes behind a key or token. */
export function guardedProblems(...codes: readonly ErrorCode[]): Record<string, object> {
  return problems('invalid_request', 'unauthorized', 'forbidden', ...codes);
}

export const cursorField = Type.Optional(
  Type.String({ description: 'Give it as `cursor` for the next page; absent on the last' }),
);
export const cursorParameter = Type.Optional(Type.String({ maxLength: 512, description: 'From the page before' }));
export const timeSchema = Type.String({ format: 'date-time', examples: ['2026-01-01T00:00:00.000Z'] });

export function limitParameter(most: number, standard: number) {
  return Type.Optional(Type.Integer({ minimum: 1, maximum: most, default: standard, description: 'How many at most' }));
}

/** Of a list whose pages are of the usual size. */
export const pageParameters = { limit: limitParameter(PAGE_MAX, PAGE_DEFAULT), cursor: cursorParameter };

/** RFC 3339 or epoch milliseconds. */
export function timeParameter(description: string) {
  return Type.Optional(Type.String({ maxLength: 64, description: `${description}; RFC 3339 or epoch milliseconds` }));
}
