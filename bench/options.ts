import { parseArgs } from 'node:util';
import type { Load } from './bench-case.ts';

/** Command line -> what to run. Throws UsageError with one line that names what is wrong. */
export type Options = {
  readonly runs: number;
  readonly only: readonly string[];
  readonly json: boolean;
  readonly load: Load;
};

export class UsageError extends Error {}

export const HELP = `Usage: npm run bench -- [options]
Measures Downlink beside a peer that keeps nothing, both on one core, the load on another.

  --runs N       how often each is measured; the median counts (5)
  --seconds N    how long each is measured, after a time to warm up (3)
  --only A,B     of readings, poll, pull, push (all)
  --quick        one short run of everything: to see that it works, not how fast
  --json         the same as JSON
  --help         this text
`;

/** Slow enough that a push meets an idle server, as it mostly does. */
const PUSHES_PER_S = 200;
const QUICK: Load = { connections: 4, outstanding: 4, warmUpMs: 50, measureMs: 200, pairs: 5, pushes: 20, pushEveryMs: 0 };

export function parseOptions(args: readonly string[], caseIds: readonly string[]): Options | 'help' {
  const values = parse(args);
  if (values.help) return 'help';
  const only = values.only?.split(',') ?? caseIds;
  const unknown = only.find((id) => !caseIds.includes(id));
  if (unknown !== undefined) throw new UsageError(`--only knows ${caseIds.join(', ')}, not ${unknown}`);
  const seconds = number('seconds', values.seconds ?? '3', 0.1, 600);
  const runs = Math.round(number('runs', values.runs ?? (values.quick ? '1' : '5'), 1, 1_000));
  const load: Load = {
    connections: 100,
    outstanding: 20,
    warmUpMs: 1_000,
    measureMs: seconds * 1_000,
    pairs: 150,
    pushes: Math.ceil(seconds * PUSHES_PER_S),
    pushEveryMs: 1_000 / PUSHES_PER_S,
  };
  return { runs, only, json: values.json ?? false, load: values.quick ? QUICK : load };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        runs: { type: 'string' },
        seconds: { type: 'string' },
        only: { type: 'string' },
        quick: { type: 'boolean' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function number(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (text === '' || !(value >= min && value <= max))
    throw new UsageError(`--${name} is a number from ${min} to ${max}, not ${text}`);
  return value;
}
