import { randomInt } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { pinLoad } from '../pinning.ts';
import { adviceFrom } from './advice.ts';
import { chartOf } from './chart.ts';
import type { Measured } from './measured.ts';
import { HELP, parseOptions, UsageError, type Options } from './options.ts';
import { adviceLines, tableLines } from './report.ts';
import { runTrial } from './trial.ts';
import { WAYS } from './ways.ts';

/** `npm run compare`: push against pull, and what lies between, on this machine. Exits with 1 when a command went missing. */
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));

try {
  const options = parseOptions(
    process.argv.slice(2),
    WAYS.map(({ id }) => id),
    randomInt(1_000_000),
  );
  if (options === 'help') process.stdout.write(HELP);
  else await compare(options);
} catch (error) {
  process.stderr.write(error instanceof UsageError ? `${error.message}\n` : `compare: ${(error as Error).stack}\n`);
  process.exit(1);
}

async function compare({ workload, radio, network, ways, svg, json }: Options): Promise<void> {
  pinLoad();
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  const chosen = WAYS.filter(({ id }) => ways.includes(id));
  const { devices, seconds, everySeconds, seed } = workload;
  const terms = `${devices} devices, ${seconds} s a way, a wake every ${everySeconds} s, round trip ${network.roundTripMs} ms, seed ${seed}`;
  say(`Comparing ${chosen.length} ways: ${terms}`);
  const measured: Measured[] = [];
  for (const [i, way] of chosen.entries()) {
    say(`${i + 1}/${chosen.length} ${way.title} …`);
    measured.push(await runTrial(way, workload, radio, network));
  }
  const advice = adviceFrom(measured);
  writeFileSync(svg, chartOf(measured, terms));
  if (json) process.stdout.write(`${JSON.stringify({ workload, radio, network, measured, advice }, null, 2)}\n`);
  else process.stdout.write(`${['', ...tableLines(measured), '', ...adviceLines(advice), '', `Chart: ${svg}`].join('\n')}\n`);
  if (measured.some(({ missing }) => missing > 0)) process.exitCode = 1;
}
