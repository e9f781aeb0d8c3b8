/** The program's arguments: what is not known stops the start. */
export type Arguments = { readonly recover: boolean; readonly help: boolean };

export const USAGE = `Usage: npm start [-- --recover]

  --recover   after the State folder was lost: build the open commands again from History, say what could not be, and go on
  --help      this

Everything else is set by environment variables: see Configuration in README.md.
`;

/** The message is the one line that the operator sees. */
export class ArgumentError extends Error {}

export function readArguments(args: readonly string[]): Arguments {
  const unknown = args.find((arg) => arg !== '--recover' && arg !== '--help' && arg !== '-h');
  if (unknown !== undefined) throw new ArgumentError(`${unknown} is no argument of Downlink's; it knows --recover and --help`);
  return { recover: args.includes('--recover'), help: args.includes('--help') || args.includes('-h') };
}
