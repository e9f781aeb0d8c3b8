import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { AttackedHistory, HISTORIES } from './attacks/attacked-history.ts';
import { CONTROL, TEXTS } from './attacks/injected-texts.ts';
import { connectPacket, RawMqtt, rawPublish } from './attacks/raw-mqtt.ts';
import { AttackedServer, logLines } from './healthy-device.ts';

/** Wherever text is taken: it comes back as it was, and does nothing else. */
type Kept = { readonly device: string; readonly command: string; readonly text: string };

describe.each(HISTORIES)('with History: %s', (which) => {
  let store: AttackedHistory;
  let server: AttackedServer;
  const kept: Kept[] = [];

  beforeAll(async () => {
    store = await AttackedHistory.start(which);
    server = await AttackedServer.start({}, store.config);
  });

  afterAll(async () => {
    await server.close();
    await store.remove();
  });

  test('text comes back unharmed from wherever it is put', { timeout: 120_000 }, async () => {
    await server.withstands(`injection, ${which}`, async () => {
      for (const [i, text] of TEXTS.entries()) kept.push(await putEverywhere(server, `inj-${i}`, text));
    });
  });

  test('names, of which text becomes a part, are refused where they hold any of it', { timeout: 120_000 }, async () => {
    const { live } = server;
    const token = await live.createDevice('names');
    await server.withstands(`injection by names, ${which}`, async () => {
      for (const text of TEXTS) {
        const device = await live.request('POST', '/v1/devices', { body: { id: text } });
        // This one is a name.
        if (text === '__proto__') continue;
        const encoded = encodeURIComponent(text);
        const refusals = [
          device,
          await live.request('POST', '/v1/devices', { body: { id: 'labels', labels: { [text]: 'x' } } }),
          await live.request('POST', '/v1/devices/names/commands', { body: { name: text } }),
          await live.request('POST', '/v1/device/telemetry', { body: { [text]: 1 }, credential: token }),
          await live.request('GET', `/v1/devices/names/telemetry?metric=${encoded}`),
          await live.request('GET', `/v1/devices/names/telemetry?metric=x&fn=${encoded}`),
          await live.request('GET', `/v1/devices/names/telemetry?metric=x&window=${encoded}`),
          await live.request('GET', `/v1/devices/names/telemetry?metric=x&from=${encoded}`),
          await live.request('GET', `/v1/devices/names/telemetry?metric=x&to=${encoded}`),
          await live.request('GET', `/v1/devices/names/telemetry?metric=x&limit=${encoded}`),
          await live.request('GET', `/v1/devices/names/telemetry?metric=x&cursor=${encoded}`),
          await live.request('GET', `/v1/devices/names/telemetry?metric=x&${encoded}=1`),
          await live.request('GET', `/v1/devices/names/commands?state=${encoded}`),
          await live.request('GET', `/v1/devices/names/commands?from=${encoded}`),
          await live.request('GET', `/v1/devices/names/commands?cursor=${encoded}`),
          await live.request('GET', `/v1/audit?from=${encoded}`),
          await live.request('GET', `/v1/audit?cursor=${encoded}`),
          await live.request('GET', `/v1/devices/${encoded}/telemetry?metric=x`),
        ];
        expect(refusals.map(({ status }) => status).filter((status) => status !== 400 && status !== 404)).toEqual([]);
        // Free text to look for: nobody is called so.
        for (const name of ['actor', 'action', 'target']) {
          const found = await live.request<{ entries?: unknown[] }>('GET', `/v1/audit?${name}=${encoded}`);
          expect(found.status === 400 || JSON.stringify(found.body).length < 100, `${name} ${text}`).toBe(true);
        }
        expect((await live.request('GET', `/v1/commands/${encoded}`)).status).toBeOneOf([400, 404]);
      }
    });
  });

  test('client ids, usernames and topics over MQTT plant nothing either', async () => {
    const token = await server.live.createDevice('speaker');
    await server.withstands(`injection over MQTT, ${which}`, async () => {
      for (const text of TEXTS) {
        const stranger = await RawMqtt.open(server.mqttPort);
        stranger.send(connectPacket(text, text, { username: text }));
        const answer = await stranger.next();
        if (answer !== undefined)
          expect(answer).toMatchObject({ cmd: 'connack', returnCode: expect.toSatisfy((code) => code > 0) });
        stranger.end();
        const client = await RawMqtt.login(server.mqttPort, 'speaker', token);
        client.send(rawPublish(`devices/speaker/${text}`, text, 1));
        client.send(rawPublish(`devices/speaker/commands/${text}`, '{"state":"running"}', 2));
        await client.untilPong();
        client.end();
      }
    });
  });

  test('History holds what was put there, and not a row more', async () => {
    await server.live.request('GET', '/v1/devices/healthy/telemetry?metric=n');
    await server.live.stop();
    const history = await store.open(server.live.dataDir);
    const all = { fromNs: 0n, toNs: 2n ** 62n, limit: 1_000 };
    for (const { device, command, text } of kept) {
      const commands = await history.commands({ ...all, deviceId: device });
      expect(commands, device).toMatchObject([
        { id: command, name: 'inject', state: 'succeeded', params: { [text]: text }, key: text, message: text, result: [text] },
      ]);
      const readings = await history.readings({ ...all, deviceId: device, metric: 'text' });
      expect(
        readings.map(({ value }) => value),
        device,
      ).toEqual([text]);
    }
    expect(await history.readings({ ...all, deviceId: 'healthy', metric: 'planted' })).toEqual([]);
    expect((await history.commands({ ...all, deviceId: 'healthy' })).filter(({ name }) => name !== 'blink')).toEqual([]);
    await history.close();
    const { influxd } = store;
    if (influxd === undefined) return;
    const measurements = JSON.stringify(await influxd.execute('SHOW MEASUREMENTS', 'downlink'));
    expect([...measurements.matchAll(/\["(\w+)"\]/g)].map(([, name]) => name)).toEqual([
      'name',
      'audit',
      'command',
      'command_event',
      'telemetry',
    ]);
    const devices = JSON.stringify(await influxd.execute('SHOW TAG VALUES WITH KEY = device', 'downlink'));
    const names = new Set([...devices.matchAll(/\["device","([^"]*)"\]/g)].map(([, name]) => name));
    expect([...names].filter((name) => !/^(inj-\d+|healthy|names|speaker|__proto__)$/.test(name ?? ''))).toEqual([]);
    expect(JSON.stringify(await influxd.execute('SHOW DATABASES'))).toContain('downlink');
  });

  test('every log line is JSON on one line, without a control character', () => {
    const lines = logLines(server.process.printed).filter((line) => !/^(stopped|SIGTERM: .*|)$/.test(line));
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) {
      expect(() => JSON.parse(line) as unknown, line).not.toThrow();
      expect(CONTROL.test(line), JSON.stringify(line)).toBe(false);
    }
  });
});

/** One device, with the text in every place that takes any. */
async function putEverywhere({ live }: AttackedServer, id: string, text: string): Promise<Kept> {
  const token = await live.createDevice(id, { name: text, labels: { text } });
  const shown = await live.request('GET', `/v1/devices/${id}`);
  expect(shown.body).toMatchObject({ name: text, labels: { text } });
  const found = await live.request<{ devices: object[] }>('GET', `/v1/devices?label=${encodeURIComponent(`text:${text}`)}`);
  expect(found.body.devices).toMatchObject([{ id }]);

  const reading = await live.request('POST', '/v1/device/telemetry', { body: { text }, credential: token });
  expect(reading.status).toBe(202);
  const latest = await live.request('GET', `/v1/devices/${id}/telemetry/latest`);
  expect(latest.body).toMatchObject({ metrics: { text: { value: text } } });

  const headers = { 'idempotency-key': `k-${text.replaceAll(/[^\x21-\x7e]/g, '') || 'x'}` };
  const body = { name: 'inject', key: text, params: { [text]: text } };
  const issued = await live.request<{ id: string }>('POST', `/v1/devices/${id}/commands`, { body, headers });
  expect(issued.status).toBe(201);
  const again = await live.request<{ id: string }>('POST', `/v1/devices/${id}/commands`, { body, headers });
  expect(again.body.id).toBe(issued.body.id);
  const report = { state: 'succeeded', message: text, result: [text] };
  const reported = await live.request('POST', `/v1/device/commands/${issued.body.id}`, { body: report, credential: token });
  expect(reported.status).toBe(200);
  expect(await live.command(issued.body.id)).toMatchObject({
    message: text,
    result: [text],
    key: text,
    params: { [text]: text },
  });

  const key = await live.request<{ key: { id: string; name: string } }>('POST', '/v1/keys', {
    body: { name: text, role: 'viewer' },
  });
  expect(key.status === 400 || key.body.key.name === text, `a key called ${text}`).toBe(true);
  const bad = await live.request('POST', '/v1/device/telemetry', {
    body: `{"${'x'.repeat(3)}": ${JSON.stringify([text])}}`,
    credential: token,
  });
  expect(bad.status).toBe(400);
  const rejects = await live.request<{ rejects: unknown[] }>('GET', `/v1/devices/${id}/rejects`);
  expect(rejects.body.rejects).toHaveLength(1);
  return { device: id, command: issued.body.id, text };
}
