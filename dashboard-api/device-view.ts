import { Type, type Static } from 'typebox';
import { deviceIdSchema, deviceLimitsSchema, labelsSchema, wakeScheduleSchema, type Device } from '../devices/device.ts';
import { PRESENCE_STATES, type Contacts, type Presence } from '../devices/presence.ts';
import type { ApiParts } from './api-parts.ts';
import { timeSchema } from './openapi.ts';
import { rfc3339 } from './times.ts';

/** A device as the API shows it. */
export const presenceSchema = Type.Object(
  {
    state: Type.Enum([...PRESENCE_STATES]),
    missedWakes: Type.Integer({ description: 'Scheduled wakes that passed without a contact' }),
    lastContactAt: Type.Optional(timeSchema),
    nextWakeAt: Type.Optional(timeSchema),
  },
  { $id: 'Presence' },
);

export const deviceSchema = Type.Object(
  {
    id: deviceIdSchema,
    name: Type.Optional(Type.String()),
    labels: labelsSchema,
    wake: Type.Optional(wakeScheduleSchema),
    graceSeconds: Type.Integer({ description: 'How late a wake may be before it counts as missed' }),
    limits: deviceLimitsSchema,
    createdAt: timeSchema,
    updatedAt: timeSchema,
    presence: presenceSchema,
    openCommands: Type.Integer({ description: 'Commands that have not ended' }),
  },
  {
    $id: 'Device',
    examples: [
      {
        id: 'meter-7',
        name: 'Cellar',
        labels: { site: 'north' },
        wake: { cron: '0 * * * *', timezone: 'Europe/Berlin' },
        graceSeconds: 60,
        limits: {},
        createdAt: '2026-01-01T00:00:00.000Z',
        updatedAt: '2026-01-01T00:00:00.000Z',
        presence: {
          state: 'asleep',
          missedWakes: 0,
          lastContactAt: '2026-01-02T09:00:03.120Z',
          nextWakeAt: '2026-01-02T10:00:00.000Z',
        },
        openCommands: 1,
      },
    ],
  },
);

export type DeviceView = Static<typeof deviceSchema>;
export type PresenceView = Static<typeof presenceSchema>;

export function deviceView({ presence, ledger }: Pick<ApiParts, 'presence' | 'ledger'>, device: Device): DeviceView {
  const { createdAt, updatedAt, ...rest } = device;
  return {
    ...rest,
    createdAt: rfc3339(createdAt),
    updatedAt: rfc3339(updatedAt),
    presence: presenceView(presence.presence(device.id), presence.contacts(device.id)),
    openCommands: ledger.book.countOf(device.id),
  };
}

export function presenceView(
  { state, missedWakes, nextWakeAt }: Presence,
  { lastContactAt }: Pick<Contacts, 'lastContactAt'>,
): PresenceView {
  return {
    state,
    missedWakes,
    ...(lastContactAt !== undefined && { lastContactAt: rfc3339(lastContactAt) }),
    ...(nextWakeAt !== undefined && { nextWakeAt: rfc3339(nextWakeAt) }),
  };
}
