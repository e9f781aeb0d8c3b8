import { isEnded, type Command, type CommandState } from '../../devices/command.ts';
import type { CommandLedger } from './command-ledger.ts';

/** Resolves with the command once it has ended, or as it stands after `waitMs` or when `signal` aborts. */
export function outcomeOf(ledger: CommandLedger, command: Command, waitMs: number, signal: AbortSignal): Promise<Command> {
  if (isEnded(command) || waitMs <= 0 || signal.aborted) return Promise.resolve(command);
  return new Promise((resolve) => {
    let latest = command;
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', finish);
      ledger.off('stepped', onStep);
      resolve(latest);
    };
    const onStep = (stepped: Command, _from: CommandState | 'none'): void => {
      if (stepped.id !== command.id) return;
      latest = stepped;
      if (isEnded(stepped)) finish();
    };
    const timer = setTimeout(finish, waitMs);
    signal.addEventListener('abort', finish);
    ledger.on('stepped', onStep);
  });
}
