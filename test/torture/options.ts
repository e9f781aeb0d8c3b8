import { parseArgs } from 'node:util';

/** Command line -> what to run. Throws UsageError with one line that names what is wrong. */
export type Options = {
  readonly rounds: number;
  /** Readings a second over all devices. */
  readonly rate: number;
  readonly push: number;
  readonly sleepy: number;
  readonly seed: number;
  /** The longest that the server may live in a round. */
  readonly roundMs: number;
  /** History in this InfluxDB, in a database of the run's own; embedded when absent. */
  readonly influxUrl?: string;
};

export class UsageError extends Error {}

export const HELP = `Usage: npm run torture -- [options]
Kills a real server with SIGKILL again and again under real clients, then looks for all that was acknowledged to them.

  --rounds N     how often it is killed (20)
  --rate N       readings a second (200)
  --push N       devices on MQTT, QoS 1 and QoS 2 in turn (8)
  --sleepy N     devices that pull over HTTP (8)
  --round-ms N   how long the server lives at most between two kills (1500)
  --seed N       repeats a run's moments and commands (random, and printed)
  --influx URL   History in this InfluxDB, in a database that is dropped at the end (embedded)
  --help         this text
`;

export function parseOptions(args: readonly string[], randomSeed: number): Options | 'help' {
  const values = parse(args);
  if (values.help) return 'help';
  const { influx } = values;
  if (influx !== undefined && !URL.canParse(influx))
    throw new UsageError(`--influx is a URL such as http://127.0.0.1:8086, not ${influx}`);
  return {
    rounds: wholeNumber('rounds', values.rounds ?? '20', 1, 10_000),
    rate: wholeNumber('rate', values.rate ?? '200', 1, 100_000),
    push: wholeNumber('push', values.push ?? '8', 0, 1_000),
    sleepy: wholeNumber('sleepy', values.sleepy ?? '8', 0, 1_000),
    roundMs: wholeNumber('round-ms', values['round-ms'] ?? '1500', 10, 600_000),
    seed: wholeNumber('seed', values.seed ?? String(randomSeed), 0, 4_294_967_295),
    ...(influx !== undefined && { influxUrl: influx }),
  };
}

function parse(args: readonly string[]) {
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args: [...args],
      options: {
        rounds: text,
        rate: text,
        push: text,
        sleepy: text,
        'round-ms': text,
        seed: text,
        influx: text,
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function wholeNumber(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isInteger(value) || value < min || value > max)
    throw new UsageError(`--${name} is a whole number from ${min} to ${max}, not ${text}`);
  return value;
}
