import type { Config } from './config.ts';
import { adminKeyFile } from './data-folder.ts';

/** What a person sees when the server is up: where it listens, where it keeps things, and what to do next. */
export function banner(
  config: Config,
  server: {
    readonly httpPort: number | undefined;
    readonly mqttPort: number | undefined;
    readonly httpsPort: number | undefined;
    readonly mqttsPort: number | undefined;
    readonly adminKey: string | undefined;
    readonly isFirstStart: boolean;
    readonly openCommands: number;
  },
  version: string,
): string {
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;
  const key =
    config.adminKey !== undefined
      ? 'as set by DOWNLINK_ADMIN_KEY'
      : server.adminKey === undefined
        ? 'the one you keep (admin.key in the data folder is gone or revoked)'
        : adminKeyFile(config.dataDir);
  const rows: [string, string][] = [
    ...addressRows(host, server),
    ['Data', config.dataDir],
    [
      'History',
      config.influx.enabled
        ? `InfluxDB ${config.influx.url}, database ${config.influx.database}`
        : 'embedded (set DOWNLINK_INFLUX_URL for InfluxDB)',
    ],
    ['Admin key', server.isFirstStart ? `${key} (just made)` : key],
  ];
  if (server.openCommands > 0) rows.push(['Open', `${server.openCommands} commands go on where they were`]);
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`);
  const next = `\n  Next: ${simulate(config, server)}, or the five-minute tour in README.md\n`;
  return `\nDownlink ${version} is ready\n\n${lines.join('\n')}\n${warningOf(config)}${next}\n`;
}

/** It finds the plain ports by itself. */
function simulate({ host }: Config, { httpPort, httpsPort, mqttPort, mqttsPort }: Ports): string {
  if (httpPort !== undefined && mqttPort !== undefined) return 'npm run simulate (in another terminal)';
  const name = host === '0.0.0.0' || host === '::' ? 'localhost' : host.includes(':') ? `[${host}]` : host;
  const url = httpPort === undefined ? `https://${name}:${httpsPort}` : `http://${name}:${httpPort}`;
  const mqtt =
    mqttPort !== undefined
      ? `mqtt://${name}:${mqttPort}`
      : mqttsPort !== undefined
        ? `mqtts://${name}:${mqttsPort}`
        : `${url.replace('http', 'ws')}/mqtt`;
  return `npm run simulate -- --url ${url} --mqtt ${mqtt} (in another terminal; NODE_EXTRA_CA_CERTS names an authority of your own)`;
}

type Ports = Parameters<typeof banner>[1];

function addressRows(host: string, { mqttPort, mqttsPort, httpPort, httpsPort }: Ports): [string, string][] {
  const at = (scheme: string, port: number | undefined, path = ''): string[] =>
    port === undefined ? [] : [`${scheme}://${host}:${port}${path}`];
  const http = [...at('https', httpsPort), ...at('http', httpPort)];
  const mqtt = [
    ...at('mqtts', mqttsPort),
    ...at('wss', httpsPort, '/mqtt'),
    ...at('mqtt', mqttPort),
    ...at('ws', httpPort, '/mqtt'),
  ];
  return [
    ['MQTT', mqtt.join('   ')],
    ['HTTP', `${http.join('   ')}   API pages: ${http[0]}/docs`],
  ];
}

/** The plain ports can be read by whoever is on the way, unless there is no way. */
function warningOf({ host, mqttPort, httpPort, tls }: Config): string {
  const plain = [
    ...(mqttPort === 'off' ? [] : ['DOWNLINK_MQTT_PORT=off']),
    ...(httpPort === 'off' ? [] : ['DOWNLINK_HTTP_PORT=off']),
  ];
  if (isLoopback(host) || plain.length === 0) return '';
  const remedy = tls.enabled
    ? `set ${plain.join(' and ')} to close what is not TLS`
    : 'set DOWNLINK_TLS_CERT_FILE and DOWNLINK_TLS_KEY_FILE, then turn the plain ports off';
  return `
  Warning: listening on ${host} without TLS: tokens and commands can be read on the way; ${remedy}.
`;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}
