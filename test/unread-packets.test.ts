import { generate, type Packet } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { LiveServer } from './live-server.ts';
import { connectPacket, RawClient } from './raw-client.ts';
import { FaultProxy } from './servers/fault-proxy.ts';
import { influxAt, Influxd } from './servers/influxd.ts';
import { isMissing } from './servers/server-paths.ts';

const COUNT = 50;

/** What a client has sent and the server does not read, since it holds what came before, is no fault of the client's. */
describe.skipIf(isMissing('influxd'))('while the journal is full', () => {
  let influxd: Influxd;
  let proxy: FaultProxy;
  let server: LiveServer;

  beforeAll(async () => {
    influxd = await Influxd.start();
    proxy = await FaultProxy.start(influxd.url);
    server = await LiveServer.start({
      influx: influxAt(proxy.url, 'unread'),
      journalBytesMax: 100_000,
      bounds: { ...DEFAULT_BOUNDS, idle_seconds: 1, packet_seconds: 1 },
    });
  });

  afterAll(async () => {
    await server.close();
    await proxy.close();
    await influxd.remove();
  });

  async function metric(name: string): Promise<number> {
    const lines = (await (await fetch(`${server.url}/metrics`)).text()).split('\n');
    return Number(lines.find((line) => line.startsWith(`${name} `))?.slice(name.length));
  }

  async function connect(id: string): Promise<RawClient> {
    const client = new RawClient(server.mqttPort);
    client.send(connectPacket({ id, key: await server.createDevice(id) }, { clientId: id }));
    expect(await client.next()).toMatchObject({ cmd: 'connack', returnCode: 0 });
    return client;
  }

  function telemetry(id: string, messageId: number): Packet {
    return {
      cmd: 'publish',
      topic: `devices/${id}/telemetry`,
      payload: `{"n":${messageId}}`,
      qos: 1,
      messageId,
      dup: false,
      retain: false,
    };
  }

  test('a client with a held message is cut neither for silence nor for a packet in part, and gets its answers when there is room', async () => {
    await proxy.set('refuse');
    const token = await server.createDevice('filling');
    for (const size of [1_000, 1]) {
      const body = { filler: 'x'.repeat(size) };
      while ((await server.request('POST', '/v1/device/telemetry', { credential: token, body })).status === 202);
    }
    const held = await connect('held');
    const last = generate(telemetry('held', COUNT + 1));
    const packets = Array.from({ length: COUNT }, (_, n) => telemetry('held', n + 1));
    held.send(...packets, { cmd: 'pingreq' }, last.subarray(0, 5));
    while ((await metric('downlink_held_messages')) < COUNT);
    held.send(last.subarray(5));
    // As long as others are put up with, twice.
    for (const n of [1, 2]) {
      const [silent, slow] = [await connect(`silent-${n}`), await connect(`slow-${n}`)];
      slow.send(last.subarray(0, 5));
      await Promise.all([silent.closed, slow.closed]);
    }
    const reached = (bound: string) => metric(`downlink_bound_reached_total{bound="${bound}"}`);
    expect([await reached('idle_seconds'), await reached('packet_seconds')]).toEqual([2, 2]);
    await proxy.set('none');
    const answers = await held.take(COUNT + 2);
    expect(answers.flatMap((packet) => (packet.cmd === 'puback' ? [packet.messageId] : []))).toEqual(
      Array.from({ length: COUNT + 1 }, (_, n) => n + 1),
    );
    held.vanish();
  });
});
