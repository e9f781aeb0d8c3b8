import { Type, type Static } from 'typebox';

/** What a device is. Schemas are shared by the API and the stores; times are epoch milliseconds inside, RFC 3339 outside. */

/** `.` and `..` are left out: URLs swallow them. */
export const DEVICE_ID_PATTERN = '^(?!\\.{1,2}$)[A-Za-z0-9._-]{1,64}$';
const DEVICE_ID = new RegExp(DEVICE_ID_PATTERN);

export function isDeviceId(text: string): boolean {
  return DEVICE_ID.test(text);
}

export const DEVICE_LABELS_MAX = 32;
export const GRACE_SECONDS_DEFAULT = 60;
export const SILENT_SECONDS_DEFAULT = 300;
/** How far ahead of, and behind, the server's clock a device's own `ts` may be before it is replaced. */
export const TS_AHEAD_SECONDS_DEFAULT = 300;
export const TS_BEHIND_SECONDS_DEFAULT = 30 * 86_400;

export const deviceIdSchema = Type.String({
  pattern: DEVICE_ID_PATTERN,
  description: '1..64 of A-Z a-z 0-9 . _ -, but not . or ..',
});

export const labelsSchema = Type.Record(Type.String({ pattern: '^[A-Za-z0-9._/-]{1,63}$' }), Type.String({ maxLength: 255 }), {
  additionalProperties: false,
  maxProperties: DEVICE_LABELS_MAX,
  description: 'Names and values to filter by',
});

/** No command's message is as large as this. */
const PUSH_BYTES_MAX = 1024 * 1024;
const WAKE_SECONDS_MAX = 31_536_000;
const bounds = {
  minSeconds: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: WAKE_SECONDS_MAX,
      description: 'The soonest that the server may ask the device to come',
    }),
  ),
  maxSeconds: Type.Optional(
    Type.Integer({ minimum: 1, maximum: WAKE_SECONDS_MAX, description: 'The latest that the server may ask the device to come' }),
  ),
};
const slackSeconds = Type.Optional(
  Type.Integer({ minimum: 0, maximum: 86_400, description: 'Over how long devices with one schedule are spread' }),
);

/**
 * When a sleepy device will wake: a cron expression in a time zone, or a fixed interval from its last contact; with bounds for how far the
 * server may depart from that. Bounds alone are for a device without a schedule, which polls as it is told.
 */
export const wakeScheduleSchema = Type.Union(
  [
    Type.Object(
      {
        cron: Type.String({ minLength: 1, maxLength: 128, description: '5 fields, or 6 with seconds first' }),
        timezone: Type.Optional(Type.String({ minLength: 1, maxLength: 64, description: 'IANA name; UTC when absent' })),
        ...bounds,
        slackSeconds,
      },
      { additionalProperties: false },
    ),
    Type.Object(
      { everySeconds: Type.Integer({ minimum: 1, maximum: WAKE_SECONDS_MAX }), ...bounds, slackSeconds },
      { additionalProperties: false },
    ),
    Type.Object(bounds, { additionalProperties: false, minProperties: 1 }),
  ],
  { description: '{cron, timezone?} or {everySeconds}, with minSeconds?, maxSeconds? and slackSeconds?; or the bounds alone' },
);

export const deviceLimitsSchema = Type.Object(
  {
    silentSeconds: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 31_536_000, description: 'Silence after which a device without a schedule is lost' }),
    ),
    leaseSeconds: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 86_400, description: 'How long a hand-over waits for its confirmation' }),
    ),
    pushBytes: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: PUSH_BYTES_MAX,
        description:
          'Commands whose message takes more octets are not pushed: they wait for a pull, of which the device is notified',
      }),
    ),
    tsAheadSeconds: Type.Optional(
      Type.Integer({ minimum: 0, maximum: 31_536_000, description: "How far ahead a reading's own ts may be" }),
    ),
    tsBehindSeconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 4_000_000_000,
        description: "How old a reading's own ts may be; raise it to load recordings",
      }),
    ),
  },
  { additionalProperties: false },
);

export type Labels = Static<typeof labelsSchema>;
export type Wake = Static<typeof wakeScheduleSchema>;
/** Names its times; bounds alone do not. */
export type WakeSchedule = Extract<Wake, { cron: string } | { everySeconds: number }>;
export type DeviceLimits = Static<typeof deviceLimitsSchema>;

export type Device = {
  readonly id: string;
  readonly name?: string;
  readonly labels: Labels;
  readonly wake?: Wake;
  readonly graceSeconds: number;
  readonly limits: DeviceLimits;
  readonly createdAt: number;
  readonly updatedAt: number;
};
