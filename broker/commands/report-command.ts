import type { Command, Transport } from '../../devices/command.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { Report } from '../../devices/report.ts';
import type { CommandLedger } from './command-ledger.ts';

/** Reporting and cancelling: the two ways in which somebody's word ends a command. Both resolve once the new state is durable. */

/**
 * `onStep` is called with the promise of its durability in the turn in which it is taken, so that what it commits is of the same batch.
 * Throws `unknown_command` (also for another device's command), `command_finished`, `storage_unavailable`.
 */
export async function reportCommand(
  ledger: CommandLedger,
  deviceId: string,
  commandId: string,
  report: Report,
  transport: Transport,
  onStep: (durable: Promise<void>) => void = () => {},
): Promise<Command> {
  const found = await ledger.find(commandId);
  if (found === undefined || found.deviceId !== deviceId) {
    throw new DownlinkError('unknown_command', `${deviceId} has no command with the id ${commandId.slice(0, 64)}`);
  }
  const { command, durable } = ledger.step(found, { type: 'report', report, transport });
  onStep(durable);
  await durable;
  return command;
}

/**
 * `onStep` is called in the turn in which it is cancelled, so that what it commits is of the same batch; not for one that was cancelled before.
 * Throws `unknown_command`, `command_finished`, `command_delivered` (without `force`), `storage_unavailable`.
 */
export async function cancelCommand(
  ledger: CommandLedger,
  commandId: string,
  force: boolean,
  onStep: (cancelled: Command) => void = () => {},
): Promise<Command> {
  const found = await ledger.find(commandId);
  if (found === undefined) throw new DownlinkError('unknown_command', `no command has the id ${commandId.slice(0, 64)}`);
  const { command, durable } = ledger.step(found, { type: 'cancel', force });
  if (command !== found) onStep(command);
  await durable;
  return command;
}

/** Cancels all that is open for a device that is being deleted, and resolves when that is durable. */
export async function cancelAllOf(ledger: CommandLedger, deviceId: string): Promise<void> {
  const steps = [...ledger.book.of(deviceId)].map(({ id }) =>
    ledger.step(id, { type: 'cancel', force: true, reason: 'the device was deleted' }),
  );
  await Promise.all(steps.map(({ durable }) => durable));
}
