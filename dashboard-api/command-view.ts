import { Type, type Static } from 'typebox';
import {
  COMMAND_STATES,
  CONDITION_OPS,
  DEFERRAL_REASONS,
  isEnded,
  PRIORITIES,
  TRANSPORTS,
  type Command,
} from '../devices/command.ts';
import { deviceIdSchema } from '../devices/device.ts';
import { forecast, type Forecast } from '../devices/forecast.ts';
import type { ApiParts } from './api-parts.ts';
import { timeSchema } from './openapi.ts';
import { rfc3339 } from './times.ts';

/** A command as the API shows it: what was asked for, how far it has come, and while it waits, when it should arrive. */
export const forecastSchema = Type.Object(
  {
    nextWakeAt: Type.Optional(Type.String({ format: 'date-time', description: 'When the device is expected next' })),
    expectedAt: Type.Optional(
      Type.String({
        format: 'date-time',
        description: 'When the command should be handed over, or again while that is not confirmed; absent when nothing is known',
      }),
    ),
    wakesBeforeExpiry: Type.Optional(
      Type.Integer({ description: 'Wakes left before it expires, by number or as expected by time, counted up to 100' }),
    ),
  },
  { $id: 'Forecast' },
);

export const conditionSchema = Type.Object(
  {
    metric: Type.String({ description: 'Metric of the device whose latest reading counts' }),
    op: Type.Enum([...CONDITION_OPS], {
      description: 'Reading on the left, `value` on the right; all but = and != compare numbers',
    }),
    value: Type.Unsafe<number | boolean | string>({
      type: ['number', 'boolean', 'string'],
      description: 'A number, a boolean or a string of at most 1 KiB; of another kind than the reading it is not equal to it',
    }),
    maxAgeSeconds: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 315_360_000,
        description: 'An older reading than this says nothing; any age when absent',
      }),
    ),
  },
  {
    additionalProperties: false,
    description:
      'What must hold of the latest reading whenever the command is handed over, else it is cancelled with an `error` that begins with `condition_failed:`',
    examples: [{ metric: 'level', op: '<', value: 80, maxAgeSeconds: 3_600 }],
  },
);

const deferralSchema = Type.Object(
  {
    reason: Type.Enum([...DEFERRAL_REASONS], {
      description:
        '`over_limit`, `over_max_bytes`: no room beside those before it; `larger_than_max_bytes`: too large for any answer of the size that the device asks for; ' +
        '`over_push_bytes`: over the size that is pushed to it, so it waits for a pull; `condition_unknown`: History cannot be asked for the reading',
    }),
    at: timeSchema,
    bytes: Type.Optional(Type.Integer({ description: 'Octets that it would have taken' })),
    bytesMax: Type.Optional(Type.Integer({ description: 'Octets that there may be' })),
  },
  { description: 'Why it has not been handed over although the device came; gone once it is' },
);

export const commandSchema = Type.Object(
  {
    id: Type.String({ description: 'UUIDv7, also the key by which the device knows a repeat' }),
    deviceId: deviceIdSchema,
    name: Type.String(),
    params: Type.Optional(Type.Unknown({ description: 'Any JSON' })),
    payload: Type.Optional(Type.String({ description: 'Octets as base64, in place of params' })),
    contentType: Type.Optional(Type.String()),
    priority: Type.Enum([...PRIORITIES]),
    key: Type.Optional(Type.String({ description: 'A newer command with the same key takes its place' })),
    confirm: Type.Enum(['result', 'delivery']),
    notBefore: Type.Optional(timeSchema),
    expiresAt: Type.Optional(timeSchema),
    expiresWakes: Type.Optional(Type.Integer({ description: 'On how many wakes it may be offered' })),
    wakes: Type.Integer({ description: 'On how many wakes it was offered' }),
    condition: Type.Optional(conditionSchema),
    reportTimeoutSeconds: Type.Integer(),
    maxAttempts: Type.Integer(),
    state: Type.Enum([...COMMAND_STATES]),
    attempts: Type.Integer({ description: 'How often it was handed over' }),
    transport: Type.Optional(Type.Enum([...TRANSPORTS])),
    queuedAt: timeSchema,
    sentAt: Type.Optional(timeSchema),
    deliveredAt: Type.Optional(timeSchema),
    startedAt: Type.Optional(timeSchema),
    finishedAt: Type.Optional(timeSchema),
    progress: Type.Optional(Type.Number({ minimum: 0, maximum: 100 })),
    message: Type.Optional(Type.String({ description: "The device's words" })),
    result: Type.Optional(Type.Unknown({ description: "The device's result, any JSON" })),
    error: Type.Optional(Type.String({ description: "Why it ended without the device's word" })),
    late: Type.Optional(Type.Literal(true, { description: "The device's word came after the command had ended otherwise" })),
    deferral: Type.Optional(deferralSchema),
    supersededBy: Type.Optional(Type.String({ description: 'Id of the command with the same key that took its place' })),
    supersedes: Type.Optional(Type.Array(Type.String(), { description: 'Ids of the commands whose place it took' })),
    forecast: Type.Optional(forecastSchema),
  },
  {
    $id: 'Command',
    examples: [
      {
        id: '019b76da-a800-7000-8000-000000000001',
        deviceId: 'meter-7',
        name: 'set_interval',
        params: { seconds: 900 },
        priority: 'normal',
        confirm: 'result',
        expiresAt: '2026-01-02T00:00:00.000Z',
        wakes: 0,
        reportTimeoutSeconds: 300,
        maxAttempts: 10,
        state: 'queued',
        attempts: 0,
        queuedAt: '2026-01-01T00:00:00.000Z',
        forecast: { nextWakeAt: '2026-01-01T01:00:00.000Z', expectedAt: '2026-01-01T01:00:00.000Z', wakesBeforeExpiry: 23 },
      },
    ],
  },
);

export type CommandView = Static<typeof commandSchema>;

const TIMES = ['queuedAt', 'notBefore', 'expiresAt', 'sentAt', 'deliveredAt', 'startedAt', 'finishedAt'] as const;

/** Every field but those that only the server needs, with times as text. */
export function commandView(command: Command): CommandView {
  const { historyNs: _, leaseUntil: __, reportBy: ___, handover: ____, deferral, ...shown } = command;
  const times: Partial<Record<(typeof TIMES)[number], string>> = {};
  for (const field of TIMES) {
    const ms = command[field];
    if (ms !== undefined) times[field] = rfc3339(ms);
  }
  return { ...shown, ...times, ...(deferral && { deferral: { ...deferral, at: rfc3339(deferral.at) } }) } as CommandView;
}

/** With its forecast while it is open. */
export function commandViewNow(
  { registry, presence, clock }: Pick<ApiParts, 'registry' | 'presence' | 'clock'>,
  command: Command,
): CommandView {
  const view = commandView(command);
  const device = registry.find(command.deviceId);
  if (device === undefined || isEnded(command)) return view;
  const contacts = presence.contacts(device.id);
  const isReachable = contacts.sessions > 0 || contacts.parked > 0;
  return { ...view, forecast: forecastView(forecast(command, device, { ...contacts, reachable: isReachable }, clock.now())) };
}

function forecastView({ nextWakeAt, expectedAt, wakesBeforeExpiry }: Forecast): Static<typeof forecastSchema> {
  return {
    ...(nextWakeAt !== undefined && { nextWakeAt: rfc3339(nextWakeAt) }),
    ...(expectedAt !== undefined && { expectedAt: rfc3339(expectedAt) }),
    ...(wakesBeforeExpiry !== undefined && { wakesBeforeExpiry }),
  };
}
