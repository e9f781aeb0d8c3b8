import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectProblem } from './api-support.ts';
import { ADMIN_KEY, LiveServer, TestClock } from './live-server.ts';
import { INFLUX_AWAY } from './servers/influxd.ts';

const START = Date.parse('2026-05-01T10:10:00Z');

type Sleep = { untilSeconds: number; wakeAt: string; reason: string };
type DeviceView = { presence: { state: string; nextWakeAt?: string } };
type WithForecast = { forecast: { nextWakeAt?: string; expectedAt?: string; wakesBeforeExpiry?: number } };

let clock: TestClock;
let server: LiveServer;

beforeAll(async () => {
  clock = new TestClock(START);
  server = await LiveServer.start({}, clock);
});

afterAll(() => server.close());

const poll = async (credential: string, query = '') =>
  server.request<{ commands?: { name: string }[]; sleep?: Sleep }>('GET', `/v1/device/commands${query}`, { credential });
const retryAfter = async (credential: string) => Number((await poll(credential)).headers.get('retry-after'));
const deviceView = async (id: string) => (await server.request<DeviceView>('GET', `/v1/devices/${id}`)).body;

describe('sleep hints', () => {
  test('are what presence and forecasts go by', async () => {
    const token = await server.createDevice('hinted', { wake: { cron: '0 * * * *', slackSeconds: 1_800 } });
    const until = new Date(clock.now() + (await retryAfter(token)) * 1_000).toISOString();
    expect(until > '2026-05-01T11:00:00.000Z' && until < '2026-05-01T11:30:01.000Z').toBe(true);
    expect((await deviceView('hinted')).presence).toMatchObject({ state: 'asleep', nextWakeAt: until });
    const issue = (inSeconds: number) =>
      server.request<WithForecast>('POST', '/v1/devices/hinted/commands', { body: { name: 'x', expires: { inSeconds } } });
    const secondsLeft = (Date.parse(until) - clock.now()) / 1_000;
    const { body } = await issue(secondsLeft + 1);
    expect(body.forecast).toEqual({ nextWakeAt: until, expectedAt: until, wakesBeforeExpiry: 1 });
    expectProblem(await issue(secondsLeft), 'expires_before_next_wake', 'expires');
  });

  test('bring a device sooner for an urgent command, as its bounds allow', async () => {
    const token = await server.createDevice('bounded', { wake: { everySeconds: 3_600, minSeconds: 60, slackSeconds: 0 } });
    const plain = await server.createDevice('unbounded', { wake: { everySeconds: 3_600, slackSeconds: 0 } });
    const notBefore = new Date(clock.now() + 600_000).toISOString();
    for (const id of ['bounded', 'unbounded']) await server.issue(id, { name: 'x', priority: 'urgent', notBefore });
    const seconds = await retryAfter(token);
    expect(seconds).toBeGreaterThanOrEqual(600);
    expect(seconds).toBeLessThanOrEqual(606);
    expect(await retryAfter(plain)).toBe(3_600);
    clock.advance(seconds * 1_000);
    const { body } = await poll(token);
    expect(body.commands?.map(({ name }) => name)).toEqual(['x']);
  });

  test('let a device without a schedule poll more often while commands come, and less while none do', async () => {
    const token = await server.createDevice('adaptive', { limits: { silentSeconds: 3_600 } });
    expect(await retryAfter(token)).toBe(30);
    for (let i = 0; i < 8; i += 1) {
      clock.advance(2_000);
      const { id } = await server.issue('adaptive', { name: 'x' });
      await poll(token);
      await server.request('POST', `/v1/device/commands/${id}`, { credential: token, body: { state: 'succeeded' } });
    }
    expect(await retryAfter(token)).toBe(5);
    clock.advance(240_000);
    expect(await retryAfter(token)).toBe(120);
    clock.advance(3_000_000);
    expect(await retryAfter(token)).toBe(300);
  });

  test.each([
    [{ minSeconds: 20, maxSeconds: 10 }, 'wake.minSeconds'],
    [{ everySeconds: 60, minSeconds: 90 }, 'wake.minSeconds'],
    [{ cron: '* * * * *', slackSeconds: 45 }, 'wake.slackSeconds'],
    [{ cron: '* * * * *', minSeconds: 0 }, 'wake.minSeconds'],
    [{ maxSeconds: 60, slackSeconds: 5 }, 'wake'],
  ])('%j is refused with its place', async (wake, at) => {
    expectProblem(await server.request('POST', '/v1/devices', { body: { id: 'refused', wake } }), 'invalid_request', at);
  });
});

describe('alerts', () => {
  test('come alone on a stream that asks for them, also as they end; devices are found by them', async () => {
    const alerting = await LiveServer.start();
    try {
      const token = await alerting.createDevice('quiet', { limits: { silentSeconds: 1 } });
      const response = await fetch(`${alerting.url}/v1/stream?alert=true`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
      const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
      let said = '';
      const heard = async (words: string): Promise<void> => {
        while (!said.includes(words)) said += (await reader?.read())?.value ?? '';
      };
      await alerting.request('GET', '/v1/device/commands', { credential: token });
      await heard('"to":"lost"');
      const { body } = await alerting.request<{ devices: { id: string }[] }>('GET', '/v1/devices?presence=late,missed,lost');
      expect(body.devices.map(({ id }) => id)).toEqual(['quiet']);
      await alerting.request('GET', '/v1/device/commands', { credential: token });
      await heard('"from":"lost"');
      await reader?.cancel();
      const told = [...said.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data ?? '') as Record<string, unknown>);
      expect(told).toMatchObject([
        { device: 'quiet', from: 'asleep', to: 'lost', alert: true },
        { device: 'quiet', from: 'lost', to: 'asleep', alert: false, recovered: true },
      ]);
    } finally {
      await alerting.close();
    }
  });
});

test.each([
  ['10 s', 10_000, {}],
  ['half of its interval where that is less', 4_000, { wake: { everySeconds: 8 } }],
])('contacts of a device that are less than %s apart are one wake', async (_, gapMs, more) => {
  const id = `gap-${gapMs}`;
  const token = await server.createDevice(id, { ...more, limits: { leaseSeconds: 1 } });
  const command = await server.issue(id, { name: 'once', expires: { wakes: 1 } });
  for (let contact = 1; contact <= 2; contact += 1) {
    expect((await poll(token)).body.commands).toMatchObject([{ name: 'once' }]);
    clock.advance(gapMs - 1);
    await server.commandIn(command.id, 'queued');
  }
  clock.advance(1);
  expect((await poll(token)).status).toBe(204);
  await server.commandIn(command.id, 'expired');
});

describe('overload', () => {
  test('puts devices off while there is still room, and shows in the metrics', async () => {
    const busy = await LiveServer.start({ influx: INFLUX_AWAY, journalBytesMax: 100_000 });
    try {
      const token = await busy.createDevice('put-off');
      const pollNow = () => busy.request('GET', '/v1/device/commands', { credential: token });
      expect((await pollNow()).headers.get('retry-after')).toBe('30');
      for (let i = 0; i < 90; i += 1) {
        const body = { text: 'x'.repeat(900) };
        const { status } = await busy.request('POST', '/v1/device/telemetry', { credential: token, body });
        expect(status).toBe(202);
      }
      while (Number((await pollNow()).headers.get('retry-after')) <= 40) await new Promise((resolve) => setTimeout(resolve, 100));
      const metrics = await (await fetch(`${busy.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } })).text();
      expect(metrics).toContain('downlink_busy 1');
      expect(metrics).toMatch(/downlink_pressure\{source="journal"\} 0\.[5-9]/);
      const device = await busy.request<DeviceView>('GET', '/v1/devices/put-off');
      expect(device.body.presence.state).toBe('asleep');
    } finally {
      await busy.close();
    }
  });
});
