import type { Config } from './config.ts';
import { adminKeyFile } from './data-folder.ts';

/** What a person sees when the server is up: where it listens, where it keeps things, and what to do next. */
export function banner(
  config: Config,
  server: {
    readonly httpPort: number;
    readonly mqttPort: number;
    readonly adminKey: string | undefined;
    readonly isFirstStart: boolean;
    readonly openCommands: number;
  },
  version: string,
): string {
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;
  const http = `http://${host}:${server.httpPort}`;
  const key =
    config.adminKey !== undefined
      ? 'as set by DOWNLINK_ADMIN_KEY'
      : server.adminKey === undefined
        ? 'the one you keep (admin.key in the data folder is gone or revoked)'
        : adminKeyFile(config.dataDir);
  const rows: [string, string][] = [
    ['MQTT', `mqtt://${host}:${server.mqttPort}   ws://${host}:${server.httpPort}/mqtt`],
    ['HTTP', `${http}   API pages: ${http}/docs`],
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
  const warning = isLoopback(config.host)
    ? ''
    : `\n  Warning: listening on ${config.host} without TLS: tokens and commands can be read on the way.\n`;
  const next = `\n  Next: npm run simulate (in another terminal), or the five-minute tour in README.md\n`;
  return `\nDownlink ${version} is ready\n\n${lines.join('\n')}\n${warning}${next}\n`;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}
