import { startProcess } from './server-process.ts';
import type { Target } from './target.ts';

/** A peer from peers/: it prints `ready {"http":PORT,"mqtt":PORT}` and takes every credential. */
export async function startPeer(name: string, deviceCount: number): Promise<Target> {
  const server = await startProcess(`bench/peers/${name}.js`, [], { ...process.env, NODE_ENV: 'production' }, findPorts);
  const devices = Array.from({ length: deviceCount }, (_, i) => ({ id: `bench-${i}`, token: `dld_${'x'.repeat(43)}` }));
  return { httpPort: server.ports.http, mqttPort: server.ports.mqtt, operatorKey: 'any', devices, stop: () => server.stop() };
}

function findPorts(printed: string): { http: number; mqtt: number } | undefined {
  const ready = /^ready (\{.*\})$/m.exec(printed)?.[1];
  return ready === undefined ? undefined : (JSON.parse(ready) as { http: number; mqtt: number });
}
