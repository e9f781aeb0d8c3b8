import type { IClientOptions, MqttClient } from 'mqtt';
import type { ClientEvents, DeviceClient } from '../../simulators/client/device-client.ts';
import { HybridClient } from '../../simulators/client/hybrid-client.ts';
import { PullClient, type PullClientOptions } from '../../simulators/client/pull-client.ts';
import { PushClient } from '../../simulators/client/push-client.ts';
import { SseClient } from '../../simulators/client/sse-client.ts';
import type { NewDevice } from '../../simulators/operator-api.ts';
import type { Workload } from './workload.ts';

/** The ways of delivery that are compared, each as the reference client goes it. */
export type ClientParts = {
  readonly deviceId: string;
  readonly token: string;
  readonly url: string;
  readonly mqttUrl: string;
  readonly workload: Workload;
  readonly fetch: typeof fetch;
  readonly connect: (url: string, options: IClientOptions) => MqttClient;
  readonly events: ClientEvents;
};

export type Way = {
  readonly id: string;
  readonly title: string;
  /** It waits to be pushed to, with its radio listening. */
  readonly listens: boolean;
  /** How the device is registered. */
  device(workload: Workload): Omit<NewDevice, 'id'>;
  client(parts: ClientParts): DeviceClient;
};

/** How much sooner and later than its period an adaptive device may be told to come. */
const ADAPTIVE_SOONER = 5;
const ADAPTIVE_LATER = 4;

export const WAYS: readonly Way[] = [
  { id: 'push', title: 'MQTT push', listens: true, device: () => ({}), client: (parts) => new PushClient(mqttParts(parts)) },
  { id: 'sse', title: 'Server-sent events', listens: true, device: () => ({}), client: (parts) => new SseClient(parts) },
  { id: 'long-poll', title: 'Long poll', listens: true, device: () => ({}), client: polling('long-poll') },
  { id: 'poll', title: 'Poll', listens: false, device: onSchedule, client: polling('plain') },
  { id: 'conditional', title: 'Conditional poll', listens: false, device: onSchedule, client: polling('conditional') },
  {
    id: 'adaptive',
    title: 'Adaptive poll',
    listens: false,
    device: ({ everySeconds }) => ({
      wake: {
        everySeconds,
        minSeconds: Math.max(1, Math.floor(everySeconds / ADAPTIVE_SOONER)),
        maxSeconds: everySeconds * ADAPTIVE_LATER,
      },
    }),
    client: polling('conditional', 'server'),
  },
  { id: 'one-trip', title: 'One-trip wake', listens: false, device: onSchedule, client: polling('sync') },
  {
    id: 'notify',
    title: 'Notify, then pull',
    listens: true,
    device: () => ({}),
    client: (parts) => new PushClient({ ...mqttParts(parts), notify: { url: parts.url, commands: false, fetch: parts.fetch } }),
  },
  {
    id: 'hybrid',
    title: 'Hybrid',
    listens: true,
    device: () => ({}),
    // A dead connection is noticed after three quarters of this; a ping goes each half of it.
    client: (parts) => new HybridClient({ ...parts, keepaliveSeconds: 2 * parts.workload.keepaliveSeconds }),
  },
];

function mqttParts(parts: ClientParts): ConstructorParameters<typeof PushClient>[0] {
  const { deviceId, token, mqttUrl, workload, connect, events } = parts;
  return { url: mqttUrl, deviceId, token, connect, events, mqtt: { keepalive: workload.keepaliveSeconds } };
}

function polling(ask: NonNullable<PullClientOptions['ask']>, schedule?: 'server'): (parts: ClientParts) => DeviceClient {
  return ({ url, token, workload, fetch, events }) =>
    new PullClient({
      url,
      token,
      ask,
      waitSeconds: workload.waitSeconds,
      schedule: schedule ?? (ask === 'long-poll' ? 'always' : { everySeconds: workload.everySeconds }),
      fetch,
      events,
    });
}

function onSchedule({ everySeconds }: Workload): Omit<NewDevice, 'id'> {
  return { wake: { everySeconds } };
}
