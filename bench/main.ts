import { durableReadings } from './cases/durable-readings.ts';
import { idlePoll } from './cases/idle-poll.ts';
import { pullAndReport } from './cases/pull-and-report.ts';
import { pushLatency } from './cases/push-latency.ts';
import { describeMachine } from './machine.ts';
import { HELP, parseOptions, UsageError, type Options } from './options.ts';
import { pinLoad } from './pinning.ts';
import { asJson, asTable, type Result } from './report.ts';
import { runCase } from './run-case.ts';

/** The benchmark: each figure of Downlink's beside a peer's, measured in the same minutes on the same machine. */
const CASES = [durableReadings, idlePoll, pullAndReport, pushLatency];

// Exiting in good order takes the servers and their data along.
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));

try {
  const options = parseOptions(
    process.argv.slice(2),
    CASES.map((bench) => bench.id),
  );
  if (options === 'help') process.stdout.write(HELP);
  else await run(options);
} catch (error) {
  process.stderr.write(error instanceof UsageError ? `${error.message}\n` : `bench: ${(error as Error).stack}\n`);
  process.exit(1);
}

async function run({ runs, only, json, load }: Options): Promise<void> {
  const say = (text: string): void => void process.stderr.write(`${text}\n`);
  const machine = describeMachine();
  pinLoad();
  const results: Result[] = [];
  for (const bench of CASES) {
    if (only.includes(bench.id)) results.push(...(await runCase(bench, runs, load, say)));
  }
  process.stdout.write(`${json ? asJson(results, machine, runs) : asTable(results, machine, runs)}\n`);
}
