import { randomInt } from 'node:crypto';
import { HELP, parseOptions, UsageError } from './options.ts';
import { roundLine, summary } from './summary.ts';
import { torture } from './torture.ts';

/** `npm run torture`: exits with 1 when anything acknowledged is missing, twice, or otherwise than acknowledged. */
try {
  const options = parseOptions(process.argv.slice(2), randomInt(1_000_000));
  if (options === 'help') process.stdout.write(HELP);
  else {
    process.stdout.write(`seed ${options.seed}\n`);
    const outcome = await torture(options, (round) => void process.stdout.write(`${roundLine(round, options.rounds)}\n`));
    process.stdout.write(summary(outcome, options.seed));
    process.exit(outcome.faults.length === 0 ? 0 : 1);
  }
} catch (error) {
  process.stderr.write(error instanceof UsageError ? `${error.message}\n` : `torture: ${(error as Error).stack}\n`);
  process.exit(1);
}
