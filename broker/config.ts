import { resolve } from 'node:path';
import { BOUND_VARIABLES, readBounds, type Bounds } from './bounds.ts';
import { readTrustedProxies } from './config-proxies.ts';
import { OIDC_VARIABLES, readOidc, type OidcConfig } from './config-oidc.ts';
import { readPort, readTls, TLS_VARIABLES, type Port, type TlsConfig } from './config-tls.ts';

/** The configuration: read once from the environment, checked, frozen. What it does not know or cannot use stops the start. */
export type Config = {
  readonly host: string;
  /** Without TLS. */
  readonly mqttPort: Port;
  readonly httpPort: Port;
  readonly tls: TlsConfig;
  readonly dataDir: string;
  readonly influx: InfluxConfig;
  readonly oidc: OidcConfig;
  /** Sets the admin key instead of one made on the first start. */
  readonly adminKey: string | undefined;
  readonly logLevel: LogLevel;
  readonly journalBytesMax: number;
  readonly bounds: Bounds;
  /** Addresses and networks of proxies whose `X-Forwarded-For` is believed. */
  readonly trustedProxies: readonly string[];
};

export type InfluxConfig =
  | { readonly enabled: false }
  | {
      readonly enabled: true;
      readonly url: string;
      readonly database: string;
      readonly username: string | undefined;
      readonly password: string | undefined;
    };

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

const PREFIX = 'DOWNLINK_';
const ADMIN_KEY_CHARS_MIN = 16;
const JOURNAL_BYTES_DEFAULT = 4 * 1024 ** 3;
const JOURNAL_BYTES_MIN = 1024 * 1024;

const VARIABLES = [
  'DOWNLINK_HOST',
  'DOWNLINK_MQTT_PORT',
  'DOWNLINK_HTTP_PORT',
  ...TLS_VARIABLES,
  'DOWNLINK_DATA_DIR',
  'DOWNLINK_INFLUX_URL',
  'DOWNLINK_INFLUX_DATABASE',
  'DOWNLINK_INFLUX_USERNAME',
  'DOWNLINK_INFLUX_PASSWORD',
  'DOWNLINK_ADMIN_KEY',
  ...OIDC_VARIABLES,
  'DOWNLINK_LOG_LEVEL',
  'DOWNLINK_JOURNAL_MAX_BYTES',
  'DOWNLINK_TRUST_PROXY',
  ...BOUND_VARIABLES,
] as const;
type Variable = (typeof VARIABLES)[number];

/** The message is the one line that the operator sees; it names the variable. */
export class ConfigError extends Error {}

type Environment = Readonly<Record<string, string | undefined>>;

/** Throws ConfigError. An empty variable counts as unset. */
export function readConfig(environment: Environment): Config {
  for (const name of Object.keys(environment)) {
    if (name.startsWith(PREFIX) && !(VARIABLES as readonly string[]).includes(name)) {
      throw new ConfigError(`${name} is not a variable of Downlink's; it knows ${VARIABLES.join(', ')}`);
    }
  }
  const read = (name: Variable): string | undefined => environment[name] || undefined;
  const httpPort = readPort('DOWNLINK_HTTP_PORT', read('DOWNLINK_HTTP_PORT'), 8080, fail);
  const tls = readTls(read, fail);
  if (httpPort === 'off' && (!tls.enabled || tls.httpsPort === 'off')) {
    fail('DOWNLINK_HTTP_PORT is off and no TLS port for HTTP is on, so nobody could manage the server; turn one of them on');
  }
  return Object.freeze({
    host: read('DOWNLINK_HOST') ?? '127.0.0.1',
    mqttPort: readPort('DOWNLINK_MQTT_PORT', read('DOWNLINK_MQTT_PORT'), 1883, fail),
    httpPort,
    tls,
    dataDir: resolve(read('DOWNLINK_DATA_DIR') ?? './data'),
    influx: readInflux(read),
    oidc: readOidc(read, fail),
    adminKey: adminKey(read('DOWNLINK_ADMIN_KEY')),
    logLevel: logLevel(read('DOWNLINK_LOG_LEVEL')),
    journalBytesMax: journalBytesMax(read('DOWNLINK_JOURNAL_MAX_BYTES')),
    bounds: readBounds(read, fail),
    trustedProxies: readTrustedProxies(read('DOWNLINK_TRUST_PROXY'), fail),
  });
}

function fail(line: string): never {
  throw new ConfigError(line);
}

function readInflux(read: (name: Variable) => string | undefined): InfluxConfig {
  const url = read('DOWNLINK_INFLUX_URL');
  if (url === undefined) {
    const stray = VARIABLES.find((name) => name.startsWith('DOWNLINK_INFLUX_') && read(name) !== undefined);
    if (stray !== undefined)
      throw new ConfigError(`${stray} is set but DOWNLINK_INFLUX_URL is not; set it too, or unset ${stray}`);
    return { enabled: false };
  }
  if (!URL.canParse(url) || !['http:', 'https:'].includes(new URL(url).protocol)) {
    throw new ConfigError(`DOWNLINK_INFLUX_URL is a URL such as http://127.0.0.1:8086, not "${url}"`);
  }
  const database = read('DOWNLINK_INFLUX_DATABASE') ?? 'downlink';
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(database)) {
    throw new ConfigError(`DOWNLINK_INFLUX_DATABASE is 1..64 of A-Z a-z 0-9 _ -, not "${database}"`);
  }
  return {
    enabled: true,
    url,
    database,
    username: read('DOWNLINK_INFLUX_USERNAME'),
    password: read('DOWNLINK_INFLUX_PASSWORD'),
  };
}

function adminKey(text: string | undefined): string | undefined {
  if (text !== undefined && !/^[\x21-\x7e]+$/.test(text)) {
    throw new ConfigError('DOWNLINK_ADMIN_KEY is printable ASCII without spaces');
  }
  if (text !== undefined && text.length < ADMIN_KEY_CHARS_MIN) {
    throw new ConfigError(
      `DOWNLINK_ADMIN_KEY has at least ${ADMIN_KEY_CHARS_MIN} characters; \`openssl rand -hex 32\` makes a good one`,
    );
  }
  return text;
}

function logLevel(text: string | undefined): LogLevel {
  const level = LOG_LEVELS.find((known) => known === (text ?? 'info'));
  if (level === undefined) throw new ConfigError(`DOWNLINK_LOG_LEVEL is one of ${LOG_LEVELS.join(', ')}, not "${text}"`);
  return level;
}

function journalBytesMax(text: string | undefined): number {
  if (text === undefined) return JOURNAL_BYTES_DEFAULT;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < JOURNAL_BYTES_MIN) {
    throw new ConfigError(`DOWNLINK_JOURNAL_MAX_BYTES is a number of bytes, at least ${JOURNAL_BYTES_MIN}, not "${text}"`);
  }
  return value;
}
