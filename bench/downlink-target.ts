import { HttpConnection } from './load/http-connection.ts';
import { makeScratchFolder } from './scratch-folder.ts';
import { seedState } from './seed-state.ts';
import { nodeCommand, startProcess } from './server-process.ts';
import type { Device, Target } from './target.ts';

/** Downlink as `npm start` starts it, on free ports. */
const OPERATOR_KEY = 'bench-operator-key-of-no-value';

export type Downlink = Omit<Target, 'metric'> & {
  /** From its start until it served. */
  readonly startMs: number;
  readonly metric: (name: string) => Promise<number>;
};

/** On an empty data folder but for its devices. `influxUrl`: with InfluxDB as its History. */
export async function startDownlink(deviceCount: number, influxUrl?: string): Promise<Downlink> {
  const folder = await makeScratchFolder('data');
  try {
    const devices = await seedState(folder.path, deviceCount);
    const downlink = await startDownlinkOn(folder.path, devices, influxUrl);
    const stop = async (): Promise<void> => {
      await downlink.stop();
      await folder.remove();
    };
    return { ...downlink, stop };
  } catch (error) {
    await folder.remove();
    throw error;
  }
}

/** On a data folder as it is, which stays. */
export async function startDownlinkOn(dataDir: string, devices: readonly Device[], influxUrl?: string): Promise<Downlink> {
  const env = { ...environment(dataDir), ...(influxUrl !== undefined && { DOWNLINK_INFLUX_URL: influxUrl }) };
  const server = await startProcess({ command: nodeCommand('main.js'), env, core: 'server', findReady: findPorts });
  const { http, mqtt } = server.ready;
  const { startMs, residentBytes } = server;
  const metric = (name: string): Promise<number> => readMetric(http, name);
  const stop = (): Promise<void> => server.stop();
  return { httpPort: http, mqttPort: mqtt, operatorKey: OPERATOR_KEY, devices, startMs, residentBytes, metric, stop };
}

function environment(dataDir: string): NodeJS.ProcessEnv {
  const others = Object.entries(process.env).filter(([name]) => !name.startsWith('DOWNLINK_'));
  return {
    ...Object.fromEntries(others),
    NODE_ENV: 'production',
    DOWNLINK_MQTT_PORT: '0',
    DOWNLINK_HTTP_PORT: '0',
    DOWNLINK_DATA_DIR: dataDir,
    DOWNLINK_ADMIN_KEY: OPERATOR_KEY,
    DOWNLINK_LOG_LEVEL: 'warn',
  };
}

function findPorts(printed: string): { http: number; mqtt: number } | undefined {
  const mqtt = /\bmqtt:\/\/[^\s/]+:(\d+)/.exec(printed)?.[1];
  const http = /\bhttp:\/\/127\.0\.0\.1:(\d+)/.exec(printed)?.[1];
  return mqtt === undefined || http === undefined ? undefined : { http: Number(http), mqtt: Number(mqtt) };
}

async function readMetric(port: number, name: string): Promise<number> {
  const connection = await HttpConnection.open(port, OPERATOR_KEY);
  const text = (await connection.expect(200, 'GET', '/metrics')).toString();
  connection.close();
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `));
  if (line === undefined) throw new Error(`/metrics has no ${name}`);
  return Number(line.slice(name.length + 1));
}
