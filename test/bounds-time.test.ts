import { afterAll, beforeAll, expect, test } from 'vitest';
import { HOUR_MS, MINUTE_MS, SECOND_MS } from '../devices/clock.ts';
import { expectProblem } from './api-support.ts';
import { MOVED_CLOCK, ServerProcess } from './attacks/server-process.ts';
import { logLines } from './healthy-device.ts';
import { LiveServer } from './live-server.ts';
import { connectPacket, connectRaw, createKey, RawClient } from './raw-client.ts';

/** Bounds that take minutes and hours to reach, at a server as it is run whose clocks are moved on. */
const LONGEST_PAUSE_SECONDS = 40;
const program = new ServerProcess({
  DOWNLINK_WRONG_CREDENTIALS_PER_MINUTE_MAX: '5',
  DOWNLINK_LOGIN_PAUSE_SECONDS_MAX: String(LONGEST_PAUSE_SECONDS),
  DOWNLINK_SESSION_HOURS_MAX: '1',
  ...MOVED_CLOCK,
});
let server: LiveServer;

beforeAll(async () => {
  server = await LiveServer.start({ logLevel: 'info' }, undefined, program.start);
});

afterAll(() => server.close());

async function metric(name: string): Promise<number> {
  const lines = (await (await fetch(`${server.url}/metrics`)).text()).split('\n');
  return Number(lines.find((line) => line.startsWith(`${name} `))?.slice(name.length));
}

const reached = (bound: string): Promise<number> => metric(`downlink_bound_reached_total{bound="${bound}"}`);

async function logged(bound: string): Promise<Record<string, unknown>> {
  for (;;) {
    const line = logLines(program.printed).find((text) => text.includes(`"bound":"${bound}"`) && text.endsWith('}'));
    if (line !== undefined) return JSON.parse(line) as Record<string, unknown>;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('login_pause: pauses grow up to it, and one that would be longer counts; then who is right is let in', async () => {
  const token = await server.createDevice('late');
  const healthy = await server.connect('healthy', await server.createDevice('healthy'));
  const ask = (credential: string) => server.request('GET', '/v1/device/commands', { credential });
  /** Wrong ones until logins are paused; the seconds that are left of it then. */
  const untilPaused = async (): Promise<number> => {
    let answer = await ask('wrong');
    while (answer.status === 401) answer = await ask('wrong');
    expectProblem(answer, 'rate_limited');
    return Number(answer.headers.get('retry-after'));
  };
  const pauses: number[] = [];
  for (let longest = 1; longest < LONGEST_PAUSE_SECONDS; longest *= 2) {
    const seconds = await untilPaused();
    expect(seconds).toBeLessThanOrEqual(longest);
    pauses.push(seconds);
    expect(await reached('login_pause')).toBe(0);
    await program.advance(seconds * SECOND_MS);
  }
  expect(Math.max(...pauses)).toBeGreaterThan(LONGEST_PAUSE_SECONDS / 2);
  const seconds = await untilPaused();
  expect(seconds).toBeLessThanOrEqual(LONGEST_PAUSE_SECONDS);
  expect(await reached('login_pause')).toBe(1);
  expect(await reached('wrong_credentials')).toBe(pauses.length + 1);
  expect(await logged('login_pause')).toMatchObject({ address: '127.0.0.1' });
  const refused = new RawClient(server.mqttPort);
  refused.send(connectPacket({ id: 'late', key: token }, { clientId: 'late' }));
  expect(await refused.next()).toMatchObject({ cmd: 'connack', returnCode: 3 });
  refused.vanish();
  await healthy.publish('telemetry', { well: true });
  await program.advance(seconds * SECOND_MS);
  expect((await ask(token)).status).toBe(204);
  await healthy.end();
});

test('session_hours: a session that nobody came back to is forgotten with what waits for it; one that is connected is not', async () => {
  const AWAY = { clientId: 'away', clean: false } as const;
  const key = await createKey(server);
  const [writer, stays] = [await connectRaw(server, key), await connectRaw(server, key, { clientId: 'stays', clean: false })];
  const away = await connectRaw(server, key, AWAY);
  for (const client of [away, stays]) {
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'work', qos: 1 }] });
    expect(await client.next()).toMatchObject({ cmd: 'suback', granted: [1] });
  }
  const publish = async (payload: string): Promise<void> => {
    writer.send({ cmd: 'publish', topic: 'work', payload, qos: 1, messageId: 1, dup: false, retain: false });
    expect(await writer.next()).toMatchObject({ cmd: 'puback' });
    const packet = await stays.next();
    expect(packet).toMatchObject({ cmd: 'publish', payload: Buffer.from(payload) });
    stays.send({ cmd: 'puback', messageId: packet.messageId });
    await stays.untilPong();
  };
  await away.disconnect();
  await publish('first');
  await program.advance(50 * MINUTE_MS);
  const back = await connectRaw(server, key, AWAY);
  expect(back.sessionPresent).toBe(true);
  const packet = await back.next();
  expect(packet).toMatchObject({ payload: Buffer.from('first') });
  back.send({ cmd: 'puback', messageId: packet.messageId });
  await back.untilPong();
  await back.disconnect();
  await publish('second');
  // The hour's sweep finds it absent for some minutes.
  await program.advance(20 * MINUTE_MS);
  expect([await metric('downlink_mqtt_sessions'), await reached('session_hours')]).toEqual([2, 0]);
  await program.advance(HOUR_MS);
  while ((await metric('downlink_mqtt_sessions')) > 1);
  expect(await reached('session_hours')).toBe(1);
  expect(await logged('session_hours')).toMatchObject({ client: `${key.id}/away` });
  while ((await metric('downlink_mqtt_queued_messages')) > 0);
  await publish('third');
  const anew = await connectRaw(server, key, AWAY);
  expect(anew.sessionPresent).toBe(false);
  expect(await anew.untilPong()).toEqual([]);
  for (const client of [writer, stays, anew]) client.vanish();
});
