import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { HttpConnection } from './load/http-connection.ts';
import { startProcess } from './server-process.ts';
import type { Device, Target } from './target.ts';

/** Downlink as it is started in earnest, on free ports, with an empty data folder on the project's own disk. */
const OPERATOR_KEY = 'bench-operator-key-of-no-value';
const DATA_PARENT = join(process.cwd(), '.cache', 'bench');

export async function startDownlink(deviceCount: number): Promise<Target> {
  await mkdir(DATA_PARENT, { recursive: true });
  const dataDir = await mkdtemp(join(DATA_PARENT, 'data-'));
  const removeNow = (): void => rmSync(dataDir, { recursive: true, force: true });
  process.once('exit', removeNow);
  const remove = async (): Promise<void> => {
    process.off('exit', removeNow);
    await rm(dataDir, { recursive: true, force: true });
  };
  const server = await startProcess('main.js', [], environment(dataDir), findPorts).catch(async (error: unknown) => {
    await remove();
    throw error;
  });
  const stop = async (): Promise<void> => {
    await server.stop();
    await remove();
  };
  try {
    const devices = await registerDevices(server.ports.http, deviceCount);
    return { httpPort: server.ports.http, mqttPort: server.ports.mqtt, operatorKey: OPERATOR_KEY, devices, stop };
  } catch (error) {
    await stop();
    throw error;
  }
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
  const http = /\bhttp:\/\/[^\s/]+:(\d+)/.exec(printed)?.[1];
  return mqtt === undefined || http === undefined ? undefined : { http: Number(http), mqtt: Number(mqtt) };
}

async function registerDevices(port: number, count: number): Promise<Device[]> {
  const connection = await HttpConnection.open(port, OPERATOR_KEY);
  const devices: Device[] = [];
  for (let i = 0; i < count; i += 1) {
    const id = `bench-${i}`;
    const created = JSON.parse((await connection.expect(201, 'POST', '/v1/devices', JSON.stringify({ id }))).toString()) as {
      token: string;
    };
    devices.push({ id, token: created.token });
  }
  connection.close();
  return devices;
}
