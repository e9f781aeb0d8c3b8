import type { Command } from '../../devices/command.ts';
import type { JsonValue } from '../../devices/json.ts';

/** A `command` row of History as commandLine writes it, back to the Command that it was. Deadlines and the number of the last hand-over are State's alone. */
export type CommandRow = {
  readonly device: string;
  readonly name: string;
  readonly timeNs: string;
  /** By name; strings, numbers and booleans, null or absent where the row has none. */
  readonly fields: Readonly<Record<string, unknown>>;
};

type StateAlone = 'leaseUntil' | 'reportBy' | 'handover';
const JSON_FIELDS = ['params', 'result', 'condition', 'supersedes', 'deferral'] as const;
type JsonField = (typeof JSON_FIELDS)[number];

/** Undefined when the row has no id or state: somebody else's. */
export function commandOfRow({ device, name, timeNs, fields }: CommandRow): Command | undefined {
  const { id, state } = fields;
  if (typeof id !== 'string' || typeof state !== 'string') return undefined;
  // A row's fields merge and none can be taken away, so those that the state machine takes back are still there.
  const saidByDevice = state === 'succeeded' || state === 'failed' || state === 'rejected';
  const isDelivered = isGiven(fields['delivered_ms']);
  const command: { [Field in Exclude<keyof Command, JsonField | StateAlone>]: unknown } = {
    id,
    deviceId: device,
    name,
    payload: fields['payload'],
    contentType: fields['content_type'],
    priority: fields['priority'],
    key: fields['key'],
    confirm: fields['confirm'],
    notBefore: fields['not_before_ms'],
    expiresAt: fields['expires_ms'],
    expiresWakes: fields['expires_wakes'],
    reportTimeoutSeconds: fields['report_timeout_s'],
    maxAttempts: fields['max_attempts'],
    attempts: fields['attempts'],
    wakes: fields['wakes'],
    transport: fields['transport'],
    queuedAt: fields['queued_ms'],
    historyNs: timeNs,
    state,
    sentAt: fields['sent_ms'],
    deliveredAt: fields['delivered_ms'],
    startedAt: fields['started_ms'],
    finishedAt: fields['finished_ms'],
    progress: fields['progress'],
    message: fields['message'],
    error: saidByDevice || fields['error'] === '' ? undefined : fields['error'],
    late: fields['late'],
    supersededBy: isDelivered ? undefined : fields['superseded_by'],
  };
  const given = Object.entries(command).filter(([, value]) => isGiven(value));
  const json = JSON_FIELDS.map((field) => (field === 'deferral' && isDelivered ? {} : jsonField(field, fields)));
  return Object.assign(Object.fromEntries(given), ...json) as Command;
}

function jsonField(field: JsonField, fields: CommandRow['fields']): Partial<Record<JsonField, JsonValue>> {
  const text = fields[field];
  if (typeof text !== 'string') return {};
  try {
    return { [field]: JSON.parse(text) as JsonValue };
  } catch {
    // Damaged, or written by somebody else: the rest of the row is worth showing.
    return {};
  }
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null;
}
