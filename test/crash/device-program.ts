import { appendFileSync } from 'node:fs';
import { connect as mqttConnect } from 'mqtt';
import type { ClientOptions, DeviceClient } from '../../simulators/client/device-client.ts';
import { ExecutedCommands } from '../../simulators/client/executed-commands.ts';
import { HybridClient } from '../../simulators/client/hybrid-client.ts';
import { PullClient } from '../../simulators/client/pull-client.ts';
import { PushClient } from '../../simulators/client/push-client.ts';
import { SseClient } from '../../simulators/client/sse-client.ts';

/**
 * A device program that kills itself with SIGKILL at one step of the first command it gets, for client-crash.test.ts. What it carries out is a line in a
 * file. One argument: its Plan as JSON.
 */
export const WAYS = ['push', 'plain', 'long-poll', 'sync', 'sse', 'hybrid'] as const;
export const STEPS = ['received', 'begun', 'executed', 'before the report', 'after the report'] as const;

export type Plan = {
  readonly way: (typeof WAYS)[number];
  /** Absent: it lives. */
  readonly dieAt?: (typeof STEPS)[number];
  readonly url: string;
  readonly mqttUrl: string;
  readonly deviceId: string;
  readonly token: string;
  readonly recordPath: string;
  readonly effectsPath: string;
};

const plan = JSON.parse(process.argv[2] ?? '') as Plan;

function dieAt(step: Plan['dieAt']): void {
  if (plan.dieAt === step) process.kill(process.pid, 'SIGKILL');
}

const mortalConnect: typeof mqttConnect = ((url: string, options: object) => {
  const client = mqttConnect(url, options);
  client.on('packetsend', (packet) => {
    if (packet.cmd === 'publish' && packet.topic.includes('/commands/')) dieAt('before the report');
  });
  return client;
}) as typeof mqttConnect;

const mortalFetch: typeof fetch = (input, init) => {
  if (typeof init?.body === 'string' && init.body.includes('"state":"succeeded"')) dieAt('before the report');
  return fetch(input, init);
};

function clientOf({ way, url, mqttUrl, deviceId, token }: Plan, options: ClientOptions): DeviceClient {
  const both = { ...options, url, token, fetch: mortalFetch };
  if (way === 'push') return new PushClient({ ...options, url: mqttUrl, deviceId, token, connect: mortalConnect });
  if (way === 'hybrid') return new HybridClient({ ...both, mqttUrl, deviceId, connect: mortalConnect });
  if (way === 'sse') return new SseClient(both);
  if (way === 'long-poll') return new PullClient({ ...both, ask: way });
  return new PullClient({ ...both, ask: way, schedule: { everySeconds: 0.2 } });
}

const client = clientOf(plan, {
  executed: await ExecutedCommands.open(plan.recordPath),
  events: {
    received: () => dieAt('received'),
    reported: (_, { state }) => state !== 'running' && dieAt('after the report'),
  },
});
client.onCommand('act', ({ id }) => {
  dieAt('begun');
  appendFileSync(plan.effectsPath, `${id}\n`);
  dieAt('executed');
  return id;
});
await client.start();
