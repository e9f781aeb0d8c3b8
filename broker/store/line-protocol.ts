import { isEnded, type Command, type CommandState, type Transport } from '../../devices/command.ts';
import type { Sample } from '../../devices/telemetry.ts';

/**
 * The schema of History as InfluxDB line protocol, nanosecond times. One place writes it.
 *
 *   telemetry,device=ID metric=value,… TIME            a field a metric; `$givenTs` where the device's own time was replaced
 *   command,device=ID,name=NAME id=…,state=…,… TIME     one row a command at its queuedAt, rewritten at each step
 *   command_event,device=ID id=…,from=…,to=…,… TIME     one row a step
 *   audit,action=…,actor_kind=…,outcome=… actor=…,… TIME  one row a deed
 *
 * Device ids, command names and metric names are allow-listed, so only string fields need escaping.
 */

/** InfluxDB drops a field called `time` and confuses one called like a tag. Metric names never start with `$`. */
export function fieldOfMetric(metric: string): string {
  return metric === 'time' || metric === 'device' ? `$${metric}` : metric;
}

export function metricOfField(field: string): string {
  return field === '$time' || field === '$device' ? field.slice(1) : field;
}

/** Field that marks a row whose time is the server's in place of the device's own, which it holds. */
export const GIVEN_TS_FIELD = '$givenTs';

export function telemetryLine(deviceId: string, values: Sample['values'], timeNs: string, givenTs?: number): string {
  let line = `telemetry,device=${deviceId} `;
  let separator = '';
  for (const metric in values) {
    const value = values[metric]!;
    line += `${separator}${fieldOfMetric(metric)}=${typeof value === 'string' ? quote(value) : value}`;
    separator = ',';
  }
  if (givenTs !== undefined) line += `,${GIVEN_TS_FIELD}=${givenTs}`;
  return `${line} ${timeNs}`;
}

export function commandLine(command: Command): string {
  const fields: (string | undefined)[] = [
    text('id', command.id),
    text('state', command.state),
    text('priority', command.priority),
    json('params', command.params),
    text('payload', command.payload),
    text('content_type', command.contentType),
    text('key', command.key),
    text('confirm', command.confirm),
    integer('not_before_ms', command.notBefore),
    integer('expires_ms', command.expiresAt),
    integer('expires_wakes', command.expiresWakes),
    json('condition', command.condition),
    integer('report_timeout_s', command.reportTimeoutSeconds),
    integer('max_attempts', command.maxAttempts),
    integer('attempts', command.attempts),
    integer('wakes', command.wakes),
    text('transport', command.transport),
    integer('queued_ms', command.queuedAt),
    integer('sent_ms', command.sentAt),
    integer('delivered_ms', command.deliveredAt),
    integer('started_ms', command.startedAt),
    integer('finished_ms', command.finishedAt),
    command.progress === undefined ? undefined : `progress=${command.progress}`,
    text('message', command.message),
    json('result', command.result),
    // Fields merge and none can be taken away: a late word clears what stood there.
    text('error', command.error ?? (command.late ? '' : undefined)),
    command.late ? 'late=true' : undefined,
    text('superseded_by', command.supersededBy),
    json('supersedes', command.supersedes),
    // While it is open this changes and goes away again, which a field cannot.
    json('deferral', isEnded(command) ? command.deferral : undefined),
  ];
  const given = fields.filter((field) => field !== undefined).join(',');
  return `command,device=${command.deviceId},name=${command.name} ${given} ${command.historyNs}`;
}

export function commandEventLine(
  command: Command,
  step: { from: CommandState | 'none'; transport?: Transport | undefined; timeNs: string },
): string {
  const transport = step.transport === undefined ? '' : `,transport="${step.transport}"`;
  return (
    `command_event,device=${command.deviceId} id="${command.id}",from="${step.from}",to="${command.state}",` +
    `attempt=${command.attempts}i${transport} ${step.timeNs}`
  );
}

/** What somebody did, as a row; the tags are of fixed lists. */
export type AuditRow = {
  readonly action: string;
  readonly actorKind: string;
  readonly outcome: string;
  readonly actor: string;
  readonly actorName: string;
  readonly target?: string | undefined;
  readonly from?: string | undefined;
  readonly details?: unknown;
};

export function auditLine(row: AuditRow, timeNs: string): string {
  const fields = [
    text('actor', row.actor),
    text('actor_name', row.actorName),
    text('target', row.target),
    text('from', row.from),
    json('details', row.details),
  ];
  const given = fields.filter((field) => field !== undefined).join(',');
  return `audit,action=${row.action},actor_kind=${row.actorKind},outcome=${row.outcome} ${given} ${timeNs}`;
}

function text(field: string, value: string | undefined): string | undefined {
  return value === undefined ? undefined : `${field}=${quote(value)}`;
}

function json(field: string, value: unknown): string | undefined {
  return value === undefined ? undefined : `${field}=${quote(JSON.stringify(value))}`;
}

function integer(field: string, value: number | undefined): string | undefined {
  return value === undefined ? undefined : `${field}=${value}i`;
}

const NEEDS_ESCAPE = /["\\]/;

/** A string field: only `"` and `\\` are escaped. A newline stays as it is, so rows end at newlines outside of quotes. */
function quote(value: string): string {
  if (!NEEDS_ESCAPE.test(value)) return `"${value}"`;
  return `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}
