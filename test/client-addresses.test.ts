import { expect, test } from 'vitest';
import { HybridClient } from '../simulators/client/hybrid-client.ts';
import { PullClient } from '../simulators/client/pull-client.ts';
import { PushClient } from '../simulators/client/push-client.ts';
import { SseClient } from '../simulators/client/sse-client.ts';

/** What a client says that was given no address of a server, or none that it can use: plain JavaScript gets here without a word from the compiler. */
const DEVICE = { deviceId: 'device', token: 'token' };
const URL_HTTP = 'http://host:8080';
const URL_MQTT = 'mqtt://host:1883';

const MAKE = {
  PushClient: (options: object) => new PushClient({ ...DEVICE, ...options } as never),
  PullClient: (options: object) => new PullClient({ ...DEVICE, ...options } as never),
  SseClient: (options: object) => new SseClient({ ...DEVICE, ...options } as never),
  HybridClient: (options: object) => new HybridClient({ ...DEVICE, ...options } as never),
};

test.each<[keyof typeof MAKE, string, object, string]>([
  ['PushClient', 'url', {}, 'it is missing'],
  ['PushClient', 'url', { mqttUrl: URL_MQTT }, 'it is missing'],
  ['PushClient', 'url', { url: URL_HTTP }, `not "${URL_HTTP}"`],
  ['PushClient', 'url', { url: 'host:1883' }, 'not "host:1883"'],
  ['PushClient', 'url', { url: '127.0.0.1' }, 'not "127.0.0.1"'],
  ['PushClient', 'url', { url: 1883 }, 'not 1883'],
  ['PushClient', 'notify.url', { url: URL_MQTT, notify: {} }, 'it is missing'],
  ['PullClient', 'url', {}, 'it is missing'],
  ['PullClient', 'url', { url: URL_MQTT }, `not "${URL_MQTT}"`],
  ['SseClient', 'url', {}, 'it is missing'],
  ['HybridClient', 'mqttUrl', { url: URL_HTTP }, 'it is missing'],
  ['HybridClient', 'url', { mqttUrl: URL_MQTT }, 'it is missing'],
])('%s without a good %s says so at once (%j)', (client, option, options, said) => {
  const make = (): unknown => MAKE[client](options);
  expect(make).toThrow(TypeError);
  expect(make).toThrow(new RegExp(`^${client}: \`${option.replace('.', '\\.')}\` is the server's address, such as .*; ${said}$`));
});

test.each<[keyof typeof MAKE, object]>([
  ...['mqtt://127.0.0.1:1883', 'mqtts://host', 'ws://[::1]:8080/mqtt', 'wss://host/mqtt'].map(
    (url): [keyof typeof MAKE, object] => ['PushClient', { url }],
  ),
  ['PushClient', { url: URL_MQTT, notify: { url: 'https://host' } }],
  ['PullClient', { url: 'https://host/' }],
  ['SseClient', { url: URL_HTTP }],
  ['HybridClient', { mqttUrl: 'mqtts://host', url: 'https://host' }],
])('%s takes %j', async (client, options) => {
  await MAKE[client](options).stop();
});
