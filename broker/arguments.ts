import { parseArgs } from 'node:util';

/** The program's arguments: what is not known stops the start. */
export type Arguments = { readonly recover: boolean; readonly restore: string | undefined; readonly help: boolean };

export const USAGE = `Usage: npm start [-- --recover | --restore FILE]

  --recover        after the State folder was lost: build the open commands again from History, say what could not be, and go on
  --restore FILE   into an empty data folder: bring back a backup (npm run backup -- --to FILE), and go on from there
  --help           this

Everything else is set by environment variables: see Configuration in README.md.
`;

/** The message is the one line that the operator sees. */
export class ArgumentError extends Error {}

export function readArguments(args: readonly string[]): Arguments {
  const { recover = false, restore, help = false } = parsed(args);
  if (restore === '') throw new ArgumentError('--restore takes the file of a backup');
  if (recover && restore !== undefined) {
    throw new ArgumentError(
      '--recover and --restore exclude each other: a backup has more than what can be recovered from History',
    );
  }
  return { recover, restore, help };
}

function parsed(args: readonly string[]): { recover?: boolean; restore?: string; help?: boolean } {
  try {
    return parseArgs({
      args: [...args],
      options: { recover: { type: 'boolean' }, restore: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    }).values;
  } catch (error) {
    const [reason] = (error as Error).message.split(/\.\s/);
    throw new ArgumentError(`${reason}; Downlink knows --recover, --restore FILE and --help`, { cause: error });
  }
}
