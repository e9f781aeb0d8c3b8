import { parseArgs } from 'node:util';
import type { Load } from './bench-case.ts';

/** Command line -> what to run. Throws UsageError with one line that names what is wrong. */
export type Options = {
  /** Where it was said how often. */
  readonly runs: number | undefined;
  readonly only: readonly string[];
  readonly json: boolean;
  readonly load: Load;
};

export class UsageError extends Error {}

const OPEN_COUNTS_DEFAULT = [1_000, 10_000, 100_000];
/** As many as there may be: each device has at most a thousand. */
const OPEN_COUNT_MAX = 10_000_000;
const OPEN_DEVICES = 10_000;

export const HELP = `Usage: npm run bench -- [options]
Measures Downlink beside peers that keep nothing, each on the same core, the load (and InfluxDB) on another.

  --runs N              how often each is measured; the median counts (5, long ones fewer: the table says)
  --seconds N           how long each is measured, after a time to warm up (3)
  --only A,B            of readings, readings-influx, push, poll, pull, idle-memory, open-commands, outage (all)
  --influx-seconds N    readings-influx: how long (30)
  --open N,M            open-commands: how many are open, beside 1000 (1000,10000,100000; 1000000 takes minutes)
  --outage-seconds N    outage: how long InfluxDB is away (20)
  --quick               one short run of everything: to see that it works, not how fast
  --json                the same as JSON
  --help                this text

mosquitto and influxd are used where they are installed; what needs them is left out otherwise.
`;

const QUICK: Load = {
  connections: 4,
  outstanding: 4,
  warmUpMs: 100,
  measureMs: 200,
  pairs: 5,
  pushesPerSecond: 100,
  besidePerSecond: 500,
  influxMs: 2_000,
  idleConnections: 50,
  settleMsMax: 0,
  openCounts: [50, 200],
  openDevices: 100,
  outageMs: 500,
  outagePerSecond: 500,
};

export function parseOptions(args: readonly string[], caseIds: readonly string[]): Options | 'help' {
  const values = parse(args);
  if (values.help) return 'help';
  const only = values.only?.split(',') ?? caseIds;
  const unknown = only.find((id) => !caseIds.includes(id));
  if (unknown !== undefined) throw new UsageError(`--only knows ${caseIds.join(', ')}, not ${unknown}`);
  const isQuick = values.quick ?? false;
  const runs = values.runs === undefined ? undefined : Math.round(number('runs', values.runs, 1, 1_000));
  const load: Load = {
    connections: 100,
    outstanding: 20,
    warmUpMs: 1_000,
    measureMs: number('seconds', values.seconds ?? '3', 0.1, 600) * 1_000,
    pairs: 150,
    pushesPerSecond: 200,
    besidePerSecond: 5_000,
    influxMs: number('influx-seconds', values['influx-seconds'] ?? '30', 2, 3_600) * 1_000,
    idleConnections: 10_000,
    settleMsMax: 15_000,
    openCounts: openCounts(values.open),
    openDevices: OPEN_DEVICES,
    outageMs: number('outage-seconds', values['outage-seconds'] ?? '20', 0.5, 3_600) * 1_000,
    outagePerSecond: 2_000,
  };
  return { runs: isQuick ? (runs ?? 1) : runs, only, json: values.json ?? false, load: isQuick ? QUICK : load };
}

/** The fewest first: the others are compared with them. */
function openCounts(text: string | undefined): readonly number[] {
  if (text === undefined) return OPEN_COUNTS_DEFAULT;
  const counts = text.split(',').map((count) => Math.round(number('open', count, 1_000, OPEN_COUNT_MAX)));
  return [...new Set([1_000, ...counts])].toSorted((a, b) => a - b);
}

function parse(args: readonly string[]) {
  const text = { type: 'string' } as const;
  const flag = { type: 'boolean' } as const;
  try {
    return parseArgs({
      args: [...args],
      options: {
        runs: text,
        seconds: text,
        only: text,
        'influx-seconds': text,
        open: text,
        'outage-seconds': text,
        quick: flag,
        json: flag,
        help: { ...flag, short: 'h' },
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
