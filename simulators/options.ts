import { parseArgs } from 'node:util';
import { isDeviceId } from '../devices/device.ts';
import { isMetricName } from '../devices/telemetry.ts';
import type { Way } from './fleet/ways.ts';
import { UserError } from './user-error.ts';

/** Command line and environment -> typed options. Throws UserError with one line that names what is wrong. */
export type Options =
  | { readonly command: 'help' }
  | ({ readonly command: 'fleet' } & FleetOptions)
  | ({ readonly command: 'replay' } & ReplayOptions);

export type ServerOptions = {
  readonly url: string;
  readonly mqttUrl: string;
  readonly dataDir: string;
  /** Absent: read from `admin.key` in the data folder. */
  readonly adminKey?: string;
};

export type FleetOptions = Readonly<Partial<Record<Way, number>>> & {
  readonly server: ServerOptions;
  readonly push: number;
  readonly sleepy: number;
  readonly seconds: number;
  readonly seed: number;
  /** Probability of each kind of fault, 0..1. */
  readonly faults: number;
  /** Commands a second over the whole fleet; absent: one a device every ten seconds. */
  readonly rate?: number;
};

export const VALUE_TYPES = ['number', 'boolean', 'string'] as const;
export type ValueType = (typeof VALUE_TYPES)[number];

export type ReplayOptions = {
  readonly server: ServerOptions;
  readonly file: string;
  readonly device: string;
  readonly metric: string;
  /** Times real time; absent: as fast as the server takes it. */
  readonly speed?: number;
  readonly token?: string;
  readonly rotateToken: boolean;
  /** Absent: numbers, or true and false, as the first row has it. */
  readonly type?: ValueType;
};

export const HELP = `Usage:
  npm run simulate                                start a mixed fleet against a running server
  npm run simulate -- [options]
  npm run simulate -- replay FILE.csv --device ID --metric NAME [options]

The fleet: it registers its devices, issues commands to them, and checks that each command ends as its device says.
  --push N          devices that stay connected over MQTT (10)
  --sleepy N        devices that wake and pull over HTTP (10)
  --sync N          devices that wake for one trip: all in one request (0)
  --long-poll N     devices that keep a request waiting for commands (0)
  --sse N           devices that follow an event stream (0)
  --hybrid N        devices that are pushed to, and pull while MQTT cannot be had (0)
  --seconds N       how long commands are issued (60); Ctrl-C ends it early
  --rate N          commands a second (one a device every ten seconds)
  --faults P        probability of each kind of fault, 0 to 1 (0)
  --seed N          repeats a run's devices, commands and faults (random, and printed)

A recorded file: columns timestamp and value; sent with its own times, in UTC where they have no zone.
  --device ID       the device that sends it; made if there is none
  --metric NAME     the name of the readings
  --speed N         N times real time (as fast as the server takes it)
  --type T          number, boolean or string (number or boolean, as the first row has it)
  --token T         the device's token, if it is not one that a replay made
  --rotate-token    give the device a new token, though it is in use

Where the server is:
  --url URL         http://127.0.0.1:8080, or as DOWNLINK_HOST, DOWNLINK_HTTP_PORT and DOWNLINK_HTTPS_PORT say
  --mqtt URL        mqtt://127.0.0.1:1883, or as DOWNLINK_HOST, DOWNLINK_MQTT_PORT and DOWNLINK_MQTTS_PORT say
  --data-dir DIR    the server's data folder, for its admin.key (./data, or DOWNLINK_DATA_DIR)
  --admin-key KEY   in place of that file (DOWNLINK_ADMIN_KEY)
For a certificate of your own authority set NODE_EXTRA_CA_CERTS to its file.
  --help            this text
`;

export const DEVICES_MAX = 10_000;
const SEED_MAX = 4_294_967_295;
const SECONDS_MAX = 7 * 86_400;

const SERVER_OPTIONS = {
  url: { type: 'string' },
  mqtt: { type: 'string' },
  'data-dir': { type: 'string' },
  'admin-key': { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

const FLEET_OPTIONS = {
  ...SERVER_OPTIONS,
  push: { type: 'string' },
  sleepy: { type: 'string' },
  sync: { type: 'string' },
  'long-poll': { type: 'string' },
  sse: { type: 'string' },
  hybrid: { type: 'string' },
  seconds: { type: 'string' },
  rate: { type: 'string' },
  faults: { type: 'string' },
  seed: { type: 'string' },
} as const;

const REPLAY_OPTIONS = {
  ...SERVER_OPTIONS,
  device: { type: 'string' },
  metric: { type: 'string' },
  speed: { type: 'string' },
  type: { type: 'string' },
  token: { type: 'string' },
  'rotate-token': { type: 'boolean' },
} as const;

type Env = Readonly<Record<string, string | undefined>>;

/** `randomSeed`: the seed when none is given. */
export function parseOptions(args: readonly string[], env: Env, randomSeed: number): Options {
  return args[0] === 'replay' ? replayOptions(args.slice(1), env) : fleetOptions(args, env, randomSeed);
}

function fleetOptions(args: readonly string[], env: Env, randomSeed: number): Options {
  const { values } = read(() => parseArgs({ args: [...args], options: FLEET_OPTIONS, allowPositionals: false }));
  if (values.help) return { command: 'help' };
  return {
    command: 'fleet',
    server: serverOptions(values, env),
    push: wholeNumber('--push', values.push ?? '10', 0, DEVICES_MAX),
    sleepy: wholeNumber('--sleepy', values.sleepy ?? '10', 0, DEVICES_MAX),
    ...counted(values),
    seconds: wholeNumber('--seconds', values.seconds ?? '60', 1, SECONDS_MAX),
    seed: wholeNumber('--seed', values.seed ?? String(randomSeed), 0, SEED_MAX),
    faults: number('--faults', values.faults ?? '0', 0, 1),
    ...(values.rate !== undefined && { rate: number('--rate', values.rate, 0.01, 10_000) }),
  };
}

/** Those that are asked for. */
function counted(values: Partial<Record<Way, string | undefined>>): Partial<Record<Way, number>> {
  const counts: Partial<Record<Way, number>> = {};
  for (const way of MORE_WAYS) {
    const text = values[way];
    if (text !== undefined) counts[way] = wholeNumber(`--${way}`, text, 0, DEVICES_MAX);
  }
  return counts;
}

const MORE_WAYS = ['sync', 'long-poll', 'sse', 'hybrid'] as const;

function replayOptions(args: readonly string[], env: Env): Options {
  const { values, positionals } = read(() => parseArgs({ args: [...args], options: REPLAY_OPTIONS, allowPositionals: true }));
  if (values.help) return { command: 'help' };
  const [file, ...more] = positionals;
  if (file === undefined || more.length > 0)
    throw usage('replay takes one file: npm run simulate -- replay FILE.csv --device ID --metric NAME');
  const { device, metric, token, type } = values;
  if (device === undefined) throw usage('replay needs --device ID');
  if (metric === undefined) throw usage('replay needs --metric NAME');
  if (!isDeviceId(device)) throw usage(`--device ${device}: a device id is 1 to 64 of A-Z a-z 0-9 . _ -`);
  if (!isMetricName(metric))
    throw usage(`--metric ${metric}: a metric name is a letter or _, then up to 63 of A-Z a-z 0-9 _ . -`);
  if (type !== undefined && !isValueType(type)) throw usage(`--type ${type}: it is one of ${VALUE_TYPES.join(', ')}`);
  return {
    command: 'replay',
    server: serverOptions(values, env),
    file,
    device,
    metric,
    rotateToken: values['rotate-token'] ?? false,
    ...(values.speed !== undefined && { speed: number('--speed', values.speed, 0.001, 1e9) }),
    ...(token !== undefined && { token }),
    ...(type !== undefined && { type }),
  };
}

function serverOptions(
  values: {
    url?: string | undefined;
    mqtt?: string | undefined;
    'data-dir'?: string | undefined;
    'admin-key'?: string | undefined;
  },
  env: Env,
): ServerOptions {
  const host = reachableHost(env['DOWNLINK_HOST']);
  const adminKey = values['admin-key'] ?? env['DOWNLINK_ADMIN_KEY'];
  return {
    url: address('--url', values.url ?? own('http', host, env, ['8080', '8443']), ['http:', 'https:']),
    mqttUrl: address('--mqtt', values.mqtt ?? own('mqtt', host, env, ['1883', '8883']), ['mqtt:', 'mqtts:', 'ws:', 'wss:']),
    dataDir: values['data-dir'] ?? env['DOWNLINK_DATA_DIR'] ?? './data',
    ...(adminKey !== undefined && adminKey !== '' && { adminKey }),
  };
}

/** Where a server with these settings listens: over TLS where its plain port is off. */
function own(scheme: 'http' | 'mqtt', host: string, env: Env, [plain, tls]: readonly [string, string]): string {
  const name = scheme.toUpperCase();
  const given = env[`DOWNLINK_${name}_PORT`];
  return given === 'off'
    ? `${scheme}s://${host}:${port(env[`DOWNLINK_${name}S_PORT`], tls)}`
    : `${scheme}://${host}:${port(given, plain)}`;
}

/** A server that listens on every address is reached on this machine's own. */
function reachableHost(host: string | undefined): string {
  if (host === undefined || host === '' || host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '[::1]';
  return host.includes(':') ? `[${host}]` : host;
}

function port(given: string | undefined, otherwise: string): string {
  return given === undefined || given === '' || given === '0' ? otherwise : given;
}

function address(name: string, text: string, protocols: readonly string[]): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !protocols.includes(url.protocol)) {
    throw usage(
      `${name} ${text}: it is an address such as ${protocols[0]}//127.0.0.1:${protocols[0] === 'http:' ? '8080' : '1883'}`,
    );
  }
  return text.replace(/\/+$/, '');
}

function wholeNumber(name: string, text: string, min: number, max: number): number {
  const value = number(name, text, min, max);
  if (!Number.isInteger(value)) throw usage(`${name} ${text}: it is a whole number from ${min} to ${max}`);
  return value;
}

function number(name: string, text: string, min: number, max: number): number {
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (!(value >= min && value <= max)) throw usage(`${name} ${text}: it is a number from ${min} to ${max}`);
  return value;
}

function isValueType(text: string): text is ValueType {
  return (VALUE_TYPES as readonly string[]).includes(text);
}

function read<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw usage((error as Error).message.split(/\.\s/)[0] ?? 'bad options', error);
  }
}

function usage(message: string, cause?: unknown): UserError {
  return new UserError(`${message}. See npm run simulate -- --help`, { cause });
}
