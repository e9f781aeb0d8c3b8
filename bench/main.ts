import type { Effort, Result } from './bench-case.ts';
import { durableReadings } from './cases/durable-readings.ts';
import { idleMemory } from './cases/idle-memory.ts';
import { idlePoll } from './cases/idle-poll.ts';
import { influxReadings } from './cases/influx-readings.ts';
import { openCommands } from './cases/open-commands.ts';
import { outage } from './cases/outage.ts';
import { pullAndReport } from './cases/pull-and-report.ts';
import { pushLatency } from './cases/push-latency.ts';
import { describeMachine } from './machine.ts';
import { HELP, parseOptions, UsageError, type Options } from './options.ts';
import { pinLoad } from './pinning.ts';
import { asJson, asTable } from './report.ts';
import { watchStolenTime } from './stolen-time.ts';

/** The benchmark: each figure of Downlink's beside its peers', measured in the same minutes on the same machine. */
const CASES = [durableReadings, influxReadings, pushLatency, idlePoll, pullAndReport, idleMemory, openCommands, outage];

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
  const notes: string[] = [];
  const effort: Effort = {
    load,
    runs: (usual) => runs ?? usual,
    say: (text) => void process.stderr.write(`${text}\n`),
    note: (text) => {
      if (!notes.includes(text)) notes.push(text);
    },
  };
  const machine = describeMachine();
  const stolenTime = watchStolenTime();
  pinLoad();
  const results: Result[] = [];
  for (const bench of CASES) {
    if (!only.includes(bench.id)) continue;
    try {
      results.push(...(await bench.run(effort)));
    } catch (error) {
      // What took minutes to measure is worth printing all the same.
      effort.note(`${bench.id}: failed, ${(error as Error).stack}`);
      process.exitCode = 1;
    }
  }
  const stolen = stolenTime();
  if (stolen !== undefined) effort.note(stolen);
  process.stdout.write(`${json ? asJson(results, machine, notes) : asTable(results, machine, notes)}\n`);
}
