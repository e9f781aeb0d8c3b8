import { createServer } from 'node:net';
import type { Peer } from './compare.ts';
import { findServer } from './found-servers.ts';
import { nodeCommand, startProcess, type ServerStart } from './server-process.ts';
import type { Target } from './target.ts';

/** The peers: those in peers/ print `ready {"http":PORT,"mqtt":PORT}`, and all take every credential. */
type Ports = { readonly http: number; readonly mqtt: number };

export const bareAedes: Peer = { title: 'aedes, keeps nothing', start: (count) => startPeer('bare-aedes', count) };
export const relay: Peer = { title: 'Fastify + aedes, keeps nothing', start: (count) => startPeer('relay', count) };

export function bareFastify(title: string): Peer {
  return { title, start: (count) => startPeer('bare-fastify', count) };
}

/** One or none: it is measured only where it is installed. */
export function mosquitto(): Peer[] {
  const found = findServer('mosquitto');
  if (found === undefined) return [];
  const startOnce = async (deviceCount: number): Promise<Target> => {
    const mqtt = await freePort();
    // It also runs where it could not have the port.
    const findReady = (printed: string): Ports | undefined =>
      / running\b/.test(printed) ? { http: 0, mqtt: / already in use\b/.test(printed) ? 0 : mqtt } : undefined;
    // Without a configuration file it listens on loopback and takes everybody; nothing of its own is persisted.
    return startTarget({ command: [found.path, '-p', String(mqtt)], env: found.env, core: 'server', findReady }, deviceCount);
  };
  const start = async (deviceCount: number): Promise<Target> => {
    for (;;) {
      const target = await startOnce(deviceCount);
      if (target.mqttPort !== 0) return target;
      await target.stop();
    }
  };
  return [{ title: 'mosquitto, keeps nothing', start }];
}

function startPeer(name: string, deviceCount: number): Promise<Target> {
  const env = { ...process.env, NODE_ENV: 'production' };
  return startTarget({ command: nodeCommand(`bench/peers/${name}.js`), env, core: 'server', findReady: findPorts }, deviceCount);
}

async function startTarget(start: ServerStart<Ports>, deviceCount: number): Promise<Target> {
  const server = await startProcess(start);
  const devices = Array.from({ length: deviceCount }, (_, i) => ({ id: `bench-${i}`, token: `dld_${'x'.repeat(43)}` }));
  const { residentBytes } = server;
  const { http: httpPort, mqtt: mqttPort } = server.ready;
  return { httpPort, mqttPort, operatorKey: 'any', devices, residentBytes, stop: () => server.stop() };
}

function findPorts(printed: string): Ports | undefined {
  const ready = /^ready (\{.*\})$/m.exec(printed)?.[1];
  return ready === undefined ? undefined : (JSON.parse(ready) as Ports);
}

/** Below the ports that systems give to connections: one of those may be taken between here and its use. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 15_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}
