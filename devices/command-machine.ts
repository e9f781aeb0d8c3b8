import { isEnded, type Command, type Deferral, type DeferralReason, type Transport } from './command.ts';
import type { Report } from './report.ts';

/**
 * The life of a command: a pure function (command, event, now) -> command | error code.
 *
 *   queued --lease--> sent --confirm--> delivered --report running--> running --report--> succeeded | failed | rejected
 *     ^__lapse, release_|
 *
 * queued and sent may also end as expired, undeliverable, superseded or cancelled (a queued one also because its condition does not hold);
 * delivered and running as timed_out, or cancelled by force. A device's word is taken in every open state (its confirmation may have been lost), and once more,
 * marked late, after expired, timed_out and undeliverable.
 *
 * A repeated event returns the very same object, so a retry is harmless; an impossible one returns an error code. Internal
 * events (lapse, release, defer, fail a condition, expire, time out, supersede, wake) that no longer apply are no-ops, since timers race with devices.
 */
export type CommandEvent =
  | { readonly type: 'lease'; readonly transport: Transport; readonly leaseMs: number; readonly handover: number }
  | { readonly type: 'lapse' }
  /** The hand-over never left the server: as a lapse, but the attempt does not count. */
  | { readonly type: 'release' }
  /** The device came, and there was no room for the command. */
  | { readonly type: 'defer'; readonly reason: DeferralReason; readonly bytes?: number; readonly bytesMax?: number }
  /** Its condition does not hold; `message` says what was found. */
  | { readonly type: 'fail_condition'; readonly message: string }
  | { readonly type: 'confirm'; readonly transport: Transport }
  | { readonly type: 'report'; readonly report: Report; readonly transport: Transport }
  | { readonly type: 'wake' }
  | { readonly type: 'expire' }
  | { readonly type: 'timeout' }
  | { readonly type: 'cancel'; readonly force: boolean; readonly reason?: string }
  | { readonly type: 'supersede'; readonly by: string }
  /** It took the place of the command `of`: the other end of `supersededBy`. */
  | { readonly type: 'take_place'; readonly of: string };

export type CommandRefusal = 'command_finished' | 'command_delivered' | 'not_leasable';

export function transition(command: Command, event: CommandEvent, now: number): Command | CommandRefusal {
  switch (event.type) {
    case 'lease':
      return lease(command, event, now);
    case 'lapse':
      return lapse(command, now);
    case 'release':
      return release(command, now);
    case 'defer':
      return defer(command, event, now);
    case 'fail_condition':
      return command.state === 'queued'
        ? end(command, 'cancelled', now, { error: `condition_failed: ${event.message}` })
        : command;
    case 'confirm':
      return confirm(command, event.transport, now);
    case 'report':
      return report(command, event.report, event.transport, now);
    case 'wake':
      return wake(command, now);
    case 'expire':
      return command.state === 'queued' || command.state === 'sent'
        ? end(command, 'expired', now, { error: 'not delivered in time' })
        : command;
    case 'timeout':
      return command.state === 'delivered' || command.state === 'running'
        ? end(command, 'timed_out', now, { error: 'no report in time' })
        : command;
    case 'cancel':
      return cancel(command, event, now);
    case 'supersede':
      return supersede(command, event.by, now);
    case 'take_place':
      return takePlace(command, event.of);
  }
}

/** When the command next needs attention if nothing else happens: it may go out, or its lease, expiry or report is due. */
export function nextDeadlineAt(command: Command, now: number): number | undefined {
  switch (command.state) {
    case 'queued':
      return command.notBefore !== undefined && command.notBefore > now
        ? earliest(command.expiresAt, command.notBefore)
        : command.expiresAt;
    case 'sent':
      return earliest(command.expiresAt, command.leaseUntil);
    case 'delivered':
    case 'running':
      return command.reportBy;
    default:
      return undefined;
  }
}

/** The event that is due by `now`, or undefined. Called again until nothing is due. */
export function dueEvent(command: Command, now: number): CommandEvent | undefined {
  if (command.state === 'queued' || command.state === 'sent') {
    if (command.expiresAt !== undefined && command.expiresAt <= now) return { type: 'expire' };
    if (command.leaseUntil !== undefined && command.leaseUntil <= now) return { type: 'lapse' };
  }
  if (command.reportBy !== undefined && command.reportBy <= now) return { type: 'timeout' };
  return undefined;
}

/** True when a transport may take the command now. */
export function isLeasable(command: Command, now: number): boolean {
  return (
    command.state === 'queued' &&
    (command.notBefore === undefined || command.notBefore <= now) &&
    (command.expiresAt === undefined || command.expiresAt > now)
  );
}

function lease(
  command: Command,
  event: { transport: Transport; leaseMs: number; handover: number },
  now: number,
): Command | CommandRefusal {
  if (!isLeasable(command, now)) return 'not_leasable';
  const { transport, handover, leaseMs } = event;
  const attempts = command.attempts + 1;
  return changed(command, { state: 'sent', attempts, transport, sentAt: now, handover, leaseUntil: now + leaseMs }, 'deferral');
}

function lapse(command: Command, now: number): Command {
  if (command.state !== 'sent') return command;
  if (command.supersededBy !== undefined) return end(command, 'superseded', now);
  if (command.attempts >= command.maxAttempts) {
    return end(command, 'undeliverable', now, { error: `not confirmed after ${command.attempts} attempts` });
  }
  return changed(command, { state: 'queued' }, 'leaseUntil');
}

function release(command: Command, now: number): Command {
  if (command.state !== 'sent') return command;
  const attempts = command.attempts - 1;
  if (command.supersededBy !== undefined) return end({ ...command, attempts }, 'superseded', now);
  if (attempts > 0) return changed(command, { state: 'queued', attempts }, 'leaseUntil', 'handover');
  return changed(command, { state: 'queued', attempts }, 'leaseUntil', 'handover', 'transport', 'sentAt');
}

function defer(command: Command, { reason, bytes, bytesMax }: Omit<Deferral, 'at'>, now: number): Command {
  if (command.state !== 'queued') return command;
  const had = command.deferral;
  if (had?.reason === reason && had.bytes === bytes && had.bytesMax === bytesMax) return command;
  const sizes = { ...(bytes !== undefined && { bytes }), ...(bytesMax !== undefined && { bytesMax }) };
  return changed(command, { deferral: { reason, at: now, ...sizes } });
}

function confirm(command: Command, transport: Transport, now: number): Command | CommandRefusal {
  if (command.deliveredAt !== undefined) return command;
  if (isEnded(command)) return 'command_finished';
  const delivered = deliver(command, transport, now);
  return command.confirm === 'delivery' ? end(delivered, 'succeeded', now) : delivered;
}

function report(command: Command, given: Report, transport: Transport, now: number): Command | CommandRefusal {
  const late = command.state === 'expired' || command.state === 'timed_out' || command.state === 'undeliverable';
  if (isEnded(command) && !late) {
    const retried = command.state === given.state;
    const overtaken = given.state === 'running' && isDevicesWord(command);
    return retried || overtaken ? command : 'command_finished';
  }
  if (given.state === 'running') {
    if (late) return 'command_finished';
    // A sign of work says that the device has it, which is all that is asked for.
    return command.confirm === 'delivery' ? confirm(command, transport, now) : run(command, given, transport, now);
  }
  const outcome = {
    ...(given.result !== undefined && { result: given.result }),
    ...(given.message !== undefined && { message: given.message }),
    ...(late && { late: true as const }),
  };
  return end(deliver(command, transport, now), given.state, now, outcome, 'error');
}

function run(command: Command, given: Report, transport: Transport, now: number): Command {
  const same =
    command.state === 'running' &&
    given.progress === command.progress &&
    given.message === command.message &&
    given.result === undefined;
  if (same) return command;
  const had = deliver(command, transport, now);
  return changed(had, {
    state: 'running',
    startedAt: had.startedAt ?? now,
    // A device that still speaks is still at work: each sign of progress starts the time for the report anew.
    reportBy: now + command.reportTimeoutSeconds * 1_000,
    ...(given.progress !== undefined && { progress: given.progress }),
    ...(given.message !== undefined && { message: given.message }),
    ...(given.result !== undefined && { result: given.result }),
  });
}

/** A wake passes with the command on offer; it ends when it has been on offer on as many as it may. */
function wake(command: Command, now: number): Command {
  if (command.expiresWakes === undefined || !isLeasable(command, now)) return command;
  if (command.wakes >= command.expiresWakes)
    return end(command, 'expired', now, { error: `not delivered within ${command.wakes} wakes` });
  return { ...command, wakes: command.wakes + 1 };
}

function cancel(command: Command, event: { force: boolean; reason?: string }, now: number): Command | CommandRefusal {
  if (command.state === 'cancelled') return command;
  if (isEnded(command)) return 'command_finished';
  if ((command.state === 'delivered' || command.state === 'running') && !event.force) return 'command_delivered';
  return end(command, 'cancelled', now, { error: event.reason ?? 'cancelled by an operator' });
}

function supersede(command: Command, by: string, now: number): Command {
  if (command.state === 'queued') return end({ ...command, supersededBy: by }, 'superseded', now);
  if (command.state === 'sent') return { ...command, supersededBy: by };
  return command;
}

function takePlace(command: Command, of: string): Command {
  const had = command.supersedes ?? [];
  return had.includes(of) ? command : { ...command, supersedes: [...had, of] };
}

/** The device has it: from here on the report is awaited, and nothing can take its place any more. */
function deliver(command: Command, transport: Transport, now: number): Command {
  if (command.deliveredAt !== undefined) return command;
  const reportBy = now + command.reportTimeoutSeconds * 1_000;
  const sentAt = command.sentAt ?? now;
  const delivered = { state: 'delivered', transport, sentAt, deliveredAt: now, reportBy } as const;
  return changed(command, delivered, 'leaseUntil', 'supersededBy', 'deferral');
}

function end(
  command: Command,
  state: Command['state'],
  now: number,
  outcome: Partial<Pick<Command, 'error' | 'result' | 'message' | 'late'>> = {},
  ...gone: readonly Passing[]
): Command {
  return changed(command, { ...outcome, state, finishedAt: now }, 'leaseUntil', 'reportBy', ...gone);
}

/** What a command has for a while. */
type Passing = 'deferral' | 'error' | 'handover' | 'leaseUntil' | 'reportBy' | 'sentAt' | 'supersededBy' | 'transport';

/**
 * A copy with `changes` and without the fields `gone`. Field by field, since V8 takes ten times as long for a literal that spreads an object and has more
 * fields than that.
 */
function changed(command: Command, changes: Partial<Command>, ...gone: readonly Passing[]): Command {
  const next: Record<string, unknown> = {};
  for (const field in command) if (!gone.includes(field as Passing)) next[field] = command[field as keyof Command];
  for (const field in changes) next[field] = changes[field as keyof Command];
  return next as Command;
}

function isDevicesWord(command: Command): boolean {
  return command.state === 'succeeded' || command.state === 'failed' || command.state === 'rejected';
}

function earliest(a: number | undefined, b: number | undefined): number | undefined {
  if (a === undefined) return b;
  return b === undefined ? a : Math.min(a, b);
}
