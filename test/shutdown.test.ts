import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setMaxListeners } from 'node:events';
import mqtt from 'mqtt';
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { jsonHttp } from '../simulators/client/json-http.ts';
import { seededRandom } from '../simulators/models/random.ts';
import { built } from './built.ts';
import { Operator } from './torture/operator.ts';
import { PushDevice } from './torture/push-device.ts';
import { Records } from './torture/records.ts';
import { SleepyDevice } from './torture/sleepy-device.ts';
import { verifyCommands } from './torture/verify-commands.ts';
import { verifyReadings } from './torture/verify-readings.ts';
import { ADMIN_KEY, Victim } from './torture/victim.ts';

/** SIGTERM under load, to a real server process. The limit of ten seconds is the program's own: past it, it ends with another code. */
const DEVICES = 6;

let dataDir: string;
let victim: Victim;

beforeAll(built);

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'downlink-stop-'));
  victim = new Victim(dataDir);
  victim.spawn();
  await victim.ready();
});

afterEach(async () => {
  await victim.kill();
  await rm(dataDir, { recursive: true, force: true });
});

test('a server stopped under load takes nothing new, finishes what it took, and says nothing false of its devices', async () => {
  const records = new Records();
  const parts = (name: string) => ({ victim, records, random: seededRandom(name) });
  const judge = new Operator('judge', [], parts('judge'));
  const tokens = new Map<string, string>();
  for (let i = 1; i <= DEVICES; i += 1) {
    for (const id of [`push-${i}`, `sleepy-${i}`]) {
      const { body } = await judge.ask('POST', '/v1/devices', { id, limits: { leaseSeconds: 2 } });
      tokens.set(id, (body as { token: string }).token);
    }
  }
  const pushDevices = [...tokens]
    .filter(([id]) => id.startsWith('push'))
    .map(([id, token], i) => new PushDevice(id, token, i % 2 === 0 ? 1 : 2, parts(id)));
  const sleepyDevices = [...tokens]
    .filter(([id]) => id.startsWith('sleepy'))
    .map(([id, token]) => new SleepyDevice(id, token, parts(id)));
  const { body: registered } = await judge.ask('POST', '/v1/devices', { id: 'willing' });
  const { token: willingToken } = registered as { token: string };
  const operator = new Operator('operator', [...tokens.keys()], parts('operator'));
  const enough = new AbortController();
  const gone = new AbortController();
  setMaxListeners(0, enough.signal, gone.signal);
  for (const device of [...pushDevices, ...sleepyDevices]) device.produce(5, enough.signal);
  for (const device of sleepyDevices) device.pull(gone.signal);
  operator.produce(10, enough.signal);
  await new Promise<void>((resolve) => records.onAcknowledged(() => records.acknowledgements >= 500 && resolve()));

  const will = { topic: 'devices/willing/telemetry', payload: Buffer.from('{"will":1}'), qos: 1 as const, retain: false };
  const willing = await mqtt.connectAsync(`mqtt://127.0.0.1:${victim.mqttPort}`, {
    clientId: 'willing',
    username: 'willing',
    password: willingToken,
    reconnectPeriod: 0,
    will,
  });
  willing.on('error', () => {});
  const toldBefore = await presenceEvents();
  expect(await victim.stop()).toBe(0);
  expect(await toldBefore.told).toEqual([]);
  expect(victim.printed).toMatch(/stopped\n$/);
  const atEnd = records.acknowledgements;
  const http = jsonHttp({ url: victim.url, token: ADMIN_KEY });
  await expect(http('GET', '/healthz')).rejects.toThrow();

  victim.spawn();
  await victim.ready();
  const toldAfter = await presenceEvents();
  await new Promise<void>((resolve) => records.onAcknowledged(() => records.acknowledgements >= atEnd + 200 && resolve()));
  enough.abort();
  await Promise.all([...pushDevices, ...sleepyDevices, operator].map((client) => client.produced()));
  const open = async (): Promise<number> => {
    const answers = await Promise.all([...tokens.keys()].map((id) => judge.ask('GET', `/v1/devices/${id}`)));
    return answers.reduce((sum, { body }) => sum + (body as { openCommands: number }).openCommands, 0);
  };
  while ((await open()) > 0 || ![...pushDevices, ...sleepyDevices].every(({ isDrained }) => isDrained)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  gone.abort();
  await Promise.all(sleepyDevices.map((device) => device.closed()));

  const { body: left } = await judge.ask('GET', '/v1/devices/willing/telemetry?metric=will');
  expect(left).toMatchObject({ points: [] });
  // Who was told online or asleep before the stop is not told lost after it: connections are all that comes.
  await victim.stop();
  expect((await toldAfter.told).filter(({ to }) => to !== 'online')).toEqual([]);
  for (const device of pushDevices) device.close();
  victim.spawn();
  await victim.ready();

  const faults: string[] = [];
  const readings = await verifyReadings(records, judge, faults);
  const commands = await verifyCommands(records, judge, faults);
  expect(faults).toEqual([]);
  expect(readings.every(({ found, acknowledged }) => acknowledged > 0 && found >= acknowledged)).toBe(true);
  expect(commands.acknowledged).toBeGreaterThan(0);
  // What was in flight was answered before the connections went. TCP may drop an answer where more had come in than was read.
  expect(readings.every(({ untimedTwice }) => untimedTwice <= 2)).toBe(true);
});

type PresenceEvent = { readonly device: string; readonly from: string; readonly to: string };

/** Resolves once the stream is open, with the events that come until the server ends it. */
async function presenceEvents(): Promise<{ readonly told: Promise<PresenceEvent[]> }> {
  const response = await fetch(`${victim.url}/v1/stream?type=presence`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
  expect(response.status).toBe(200);
  const told = response
    .text()
    .then((text) => Array.from(text.matchAll(/^data: (.*)$/gm), ([, data]) => JSON.parse(data ?? '') as PresenceEvent));
  return { told };
}
