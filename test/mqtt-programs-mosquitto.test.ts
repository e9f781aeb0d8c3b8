import { afterAll, beforeAll, expect, test } from 'vitest';
import { LiveServer } from './live-server.ts';
import { createKey, type ProgramKey } from './raw-client.ts';
import { runMosquitto } from './servers/mosquitto-clients.ts';
import { isMissing } from './servers/server-paths.ts';

/** Programs of another make, as the README has them. */
let server: LiveServer;
let key: ProgramKey;

beforeAll(async () => {
  server = await LiveServer.start();
  key = await createKey(server, { allow: [{ filter: 'plant/#' }] });
});

afterAll(() => server.close());

test.skipIf(isMissing('mosquittoPub', 'mosquittoSub'))(
  'mosquitto_pub retains, mosquitto_sub is given it, and its session what comes later [MQTT-7.0.0-2]',
  async () => {
    const login = (): string[] => ['-p', String(server.mqttPort), '-u', key.id, '-P', key.key];
    const publish = (payload: string, ...more: string[]): ReturnType<typeof runMosquitto> =>
      runMosquitto('pub', [...login(), '-q', '2', '-t', 'plant/a', '-m', payload, ...more]);
    const subscribe = (count: number): ReturnType<typeof runMosquitto> =>
      runMosquitto('sub', [
        ...login(),
        '-i',
        'reader',
        '-c',
        '-q',
        '1',
        '-t',
        'plant/#',
        '-C',
        String(count),
        '-F',
        '%q %r %t %p',
      ]);
    expect((await publish('eco', '-r')).code).toBe(0);
    expect(await subscribe(1)).toEqual({ code: 0, output: '1 1 plant/a eco\n' });
    expect((await publish('boost')).code).toBe(0);
    await server.restart();
    const { output } = await subscribe(2);
    expect(output.split('\n').filter(Boolean).toSorted()).toEqual(['1 0 plant/a boost', '1 1 plant/a eco']);
  },
);
