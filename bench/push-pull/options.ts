import { parseArgs } from 'node:util';
import type { Network } from './metered-link.ts';
import type { Radio } from './radio-meter.ts';
import type { Workload } from './workload.ts';

/** Command line -> what to compare. Throws UsageError with one line that names what is wrong. */
export type Options = {
  readonly workload: Workload;
  readonly radio: Radio;
  readonly network: Network;
  readonly ways: readonly string[];
  readonly svg: string;
  readonly json: boolean;
};

export class UsageError extends Error {}

export const HELP = `Usage: npm run compare -- [options]
Sends the same commands and telemetry by every way of delivery, each against a server of its own, and prints what it cost and brought.

  --devices N            how many (50)
  --seconds N            how long each way is measured (30)
  --seed N               repeats a run's commands (random, and printed)
  --ways A,B             of push, sse, long-poll, poll, conditional, adaptive, one-trip, notify, hybrid (all)
  --every N              seconds between two wakes, and two measurements of a device (5)
  --command-every N      mean seconds between two commands to a device (15, and less in runs of less than half a minute)
  --keepalive N          of MQTT, seconds (10)
  --wait N               how long a long poll waits, seconds, at most 60 (10)
  --svg FILE             where the chart goes (compare.svg)
  --json                 the figures as JSON
  --help                 this text

The network, and the radio: it takes a time to come up, stays on for a time after the last octet, and listens while it waits for a push.
  --rtt-ms N             round trip of the network (100)
  --radio-ramp-ms N      (100)
  --radio-tail-ms N      (500)
  --radio-listen P       share of the waiting time in which it is on, 0 to 1 (0.01)
`;

const TEXTS = [
  'devices',
  'seconds',
  'seed',
  'ways',
  'every',
  'command-every',
  'keepalive',
  'wait',
  'svg',
  'rtt-ms',
  'radio-ramp-ms',
  'radio-tail-ms',
  'radio-listen',
] as const;

type Values = Partial<Record<(typeof TEXTS)[number], string>> & { json?: boolean; help?: boolean };

/** `randomSeed`: the seed when none is given. */
export function parseOptions(args: readonly string[], wayIds: readonly string[], randomSeed: number): Options | 'help' {
  const values = read(args);
  if (values.help) return 'help';
  const ways = values.ways?.split(',') ?? wayIds;
  const unknown = ways.find((id) => !wayIds.includes(id));
  if (unknown !== undefined) throw new UsageError(`--ways knows ${wayIds.join(', ')}, not ${unknown}`);
  const number = (name: (typeof TEXTS)[number], otherwise: number, min: number, max: number, whole = true): number => {
    const text = values[name] ?? String(otherwise);
    const value = text.trim() === '' ? Number.NaN : Number(text);
    if (value >= min && value <= max && (!whole || Number.isInteger(value))) return value;
    throw new UsageError(`--${name} ${text}: it is a ${whole ? 'whole ' : ''}number from ${min} to ${max}`);
  };
  const seconds = number('seconds', 30, 1, 86_400);
  // Two a device, so that also a short run of few devices has something to tell.
  const commandSeconds = Math.min(15, seconds / 2);
  return {
    workload: {
      devices: number('devices', 50, 1, 5_000),
      seconds,
      seed: number('seed', randomSeed, 0, 4_294_967_295),
      everySeconds: number('every', 5, 1, 86_400),
      commandSeconds: number('command-every', commandSeconds, 0.1, 86_400, false),
      keepaliveSeconds: number('keepalive', 10, 1, 65_535),
      waitSeconds: number('wait', 10, 1, 60),
    },
    radio: {
      rampMs: number('radio-ramp-ms', 100, 0, 60_000),
      tailMs: number('radio-tail-ms', 500, 0, 600_000),
      listenShare: number('radio-listen', 0.01, 0, 1, false),
    },
    network: { roundTripMs: number('rtt-ms', 100, 0, 60_000) },
    ways,
    svg: values.svg ?? 'compare.svg',
    json: values.json ?? false,
  };
}

function read(args: readonly string[]): Values {
  const texts = Object.fromEntries(TEXTS.map((name) => [name, { type: 'string' as const }]));
  try {
    const options = { ...texts, json: { type: 'boolean' as const }, help: { type: 'boolean' as const, short: 'h' } };
    return parseArgs({ args: [...args], options, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError((error as Error).message.split(/\.\s/)[0] ?? 'bad options', { cause: error });
  }
}
