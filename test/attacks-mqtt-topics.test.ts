import { generate } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PINGREQ, publishPacket, RawMqtt, rawPublish, subscribePacket } from './attacks/raw-mqtt.ts';
import { AttackedServer } from './healthy-device.ts';

/** Topics, filters and ids that are not the device's, or not topics at all; and what piles up. */
let server: AttackedServer;
let nth = 0;

beforeAll(async () => {
  server = await AttackedServer.start();
});

afterAll(() => server.close());

async function attacker(id = `attacker-${(nth += 1)}`): Promise<{ id: string; token: string; client: RawMqtt }> {
  const token = await server.live.createDevice(id);
  return { id, token, client: await RawMqtt.login(server.mqttPort, id, token) };
}

/** Values of a metric of the healthy device that it never measures itself. */
async function planted(metric: string): Promise<unknown[]> {
  const { body } = await server.live.request<{ points: unknown[] }>('GET', `/v1/devices/healthy/telemetry?metric=${metric}`);
  return body.points;
}

const levels = (count: number): string => Array.from({ length: count }, () => 'a').join('/');

describe('a PUBLISH to a topic that is no topic, or not its own', () => {
  test.each([
    ['of the healthy device', 'devices/healthy/telemetry'],
    ['of a command of the healthy device', 'devices/healthy/commands/0199'],
    ['of the server', '$SYS/broker/uptime'],
    ['with #', 'devices/#'],
    ['with +', 'devices/+/telemetry'],
    ['a#', 'a#'],
    ['+b', '+b'],
    ['empty', ''],
    ['with NUL', 'devices/healthy\u0000/telemetry'],
    ['with a newline', 'devices/healthy/telemetry\n'],
    ['with a surrogate', Buffer.from('646576696365732feda0802f74656c656d65747279', 'hex')],
    ['overlong UTF-8', Buffer.from('64657669636573c0af6865616c7468792f74656c656d65747279', 'hex')],
    ['of 101 levels', levels(101)],
    ['of 65,535 octets', 'x'.repeat(65_535)],
    ['one level up and down again', 'devices/healthy/../healthy/telemetry'],
    ['__proto__', '__proto__'],
    ['devices/__proto__/telemetry', 'devices/__proto__/telemetry'],
  ])('is refused and reaches nobody: %s', async (name, topic) => {
    const { client } = await attacker();
    await server.withstands(`topic ${name}`, async () => {
      client.send(rawPublish(topic, '{"planted":1}', 77));
      // Acknowledged, so that it is not sent for ever, or the end of the connection [MQTT-1.5.3-1], [MQTT-3.3.2-2].
      const answer = await client.next();
      if (answer !== undefined) expect(answer).toMatchObject({ cmd: 'puback', messageId: 77 });
    });
    expect(await planted('planted')).toEqual([]);
    client.end();
  });
});

test('a will to a foreign topic reaches nobody, nor does one with wildcards, NUL or 101 levels', async () => {
  const id = 'dying';
  const token = await server.live.createDevice(id);
  await server.withstands('wills to foreign topics', async () => {
    for (const topic of [
      'devices/healthy/telemetry',
      'devices/+/telemetry',
      '$SYS/x',
      'a#',
      levels(101),
      'devices/healthy/commands',
    ]) {
      for (const retain of [false, true]) {
        const will = { topic, payload: Buffer.from('{"planted":2}'), qos: 1 as const, retain };
        const client = await RawMqtt.login(server.mqttPort, id, token, { will }).catch(() => undefined);
        client?.socket.resetAndDestroy();
        await client?.closed;
      }
    }
  });
  expect(await planted('planted')).toEqual([]);
});

describe('a SUBSCRIBE to what is not its own', () => {
  test.each([
    ['#'],
    ['+/+/+'],
    ['devices/#'],
    ['devices/+/telemetry'],
    ['devices/+/commands'],
    ['devices/healthy/commands'],
    ['devices/healthy/errors'],
    ['$SYS/#'],
    ['$share/g/devices/healthy/commands'],
    ['/devices/healthy/commands'],
  ])('is refused with 0x80 and stays silent: %s', async (filter) => {
    const { client } = await attacker();
    await server.withstands(`filter ${filter}`, async () => {
      client.send(subscribePacket([filter], 5));
      expect(await client.next()).toMatchObject({ cmd: 'suback', messageId: 5, granted: [0x80] });
      // The healthy device gets commands all the while.
      await new Promise((resolve) => setTimeout(resolve, 300));
      expect(await client.untilPong()).toEqual([]);
    });
    client.end();
  });

  test.each([['a#'], ['+b'], ['a/#/b'], ['devices/healthy\u0000/commands'], ['']])(
    'is refused or ends the connection where it is no filter: %j',
    async (filter) => {
      const { client } = await attacker();
      await server.withstands(`filter ${JSON.stringify(filter)}`, async () => {
        client.send(subscribePacket([filter], 6));
        const answer = await client.next();
        if (answer !== undefined) expect(answer).toMatchObject({ cmd: 'suback', granted: [0x80] });
      });
      client.end();
    },
  );

  test('beside its own is refused alone, and stays silent when the session is taken up again', async () => {
    const { id, token, client: first } = await attacker();
    first.end();
    await server.withstands('allowed and denied filter, reconnect', async () => {
      const client = await RawMqtt.login(server.mqttPort, id, token, { clean: false });
      client.send(subscribePacket([`devices/${id}/commands`, 'devices/healthy/commands', '#'], 9));
      expect(await client.next()).toMatchObject({ cmd: 'suback', granted: [1, 0x80, 0x80] });
      client.send(generate({ cmd: 'disconnect' }));
      await client.closed;
      const again = await RawMqtt.login(server.mqttPort, id, token, { clean: false });
      await server.live.issue(id, { name: 'own' });
      const own = await again.next();
      expect(own).toMatchObject({ cmd: 'publish', topic: `devices/${id}/commands` });
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(await again.untilPong()).toEqual([]);
      again.end();
    });
  });

  test('hundreds in one packet are refused each, and told of on errors no more than some times a second', async () => {
    const { id, client } = await attacker();
    client.send(subscribePacket([`devices/${id}/errors`], 10));
    expect(await client.next()).toMatchObject({ cmd: 'suback', granted: [1] });
    const filters = Array.from({ length: 500 }, (_, i) => `devices/healthy/x${i}`);
    client.send(subscribePacket(filters, 11));
    const heard = [...(await client.untilPong()), ...(await client.untilPong())];
    expect(heard.find(({ cmd }) => cmd === 'suback')).toMatchObject({ messageId: 11, granted: filters.map(() => 0x80) });
    const told = heard.filter(({ cmd }) => cmd === 'publish').length;
    expect(told).toBeGreaterThan(0);
    expect(told).toBeLessThan(filters.length / 2);
    client.end();
  });

  test('20,000 topics in one packet: each is answered or the connection ends, and none is kept', async () => {
    const { client } = await attacker();
    await server.withstands('20,000 topics in one SUBSCRIBE', async () => {
      client.send(
        subscribePacket(
          Array.from({ length: 20_000 }, (_, i) => `devices/healthy/${i}`),
          3,
        ),
      );
      const answer = await client.next();
      if (answer === undefined) return;
      expect(answer).toMatchObject({ cmd: 'suback', messageId: 3 });
      expect(answer.cmd === 'suback' && answer.granted.every((code) => code === 0x80)).toBe(true);
    });
    client.end();
  });

  test('30,000 refused ones beside one of its own are not kept in a session that is', async () => {
    const { id, token, client: first } = await attacker();
    first.end();
    const heapGrowthMibMax = 3;
    await server.withstands(
      '30,000 refused topics in a kept session',
      async () => {
        const client = await RawMqtt.login(server.mqttPort, id, token, { clean: false });
        for (let n = 0; n < 6; n += 1) {
          const refused = Array.from({ length: 5_000 }, (_, i) => `devices/healthy/${'x'.repeat(100)}/${n}/${i}`);
          client.send(subscribePacket([`devices/${id}/commands`, ...refused], n + 1));
          await client.next();
        }
        client.end();
      },
      heapGrowthMibMax,
    );
  });

  test('its own filter 20,000 times over counts once', async () => {
    const { id, client } = await attacker();
    await server.withstands('one topic 20,000 times in a SUBSCRIBE', async () => {
      client.send(
        subscribePacket(
          Array.from({ length: 20_000 }, () => `devices/${id}/commands`),
          3,
        ),
      );
      await client.next();
      if (client.isClosed) return;
      await server.live.issue(id, { name: 'once' });
      const copies = await client.untilPong();
      expect(copies.filter(({ cmd }) => cmd === 'publish').length).toBeLessThanOrEqual(1);
    });
    client.end();
  });
});

test.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'prototype', '__defineGetter__'])(
  'a device called %s is a device like any other: login, readings, commands, metrics, labels, params',
  async (id) => {
    const labels = JSON.parse(`{"constructor":"${id}","toString":"y","__proto__":"x"}`) as object;
    await server.withstands(`a device called ${id}`, async () => {
      const token = await server.live.createDevice(id, { name: id, labels });
      const client = await RawMqtt.login(server.mqttPort, id, token);
      client.send(publishPacket(`devices/${id}/telemetry`, `{"x":1,"constructor":2,"toString":3}`, { messageId: 1 }));
      expect(await client.next()).toMatchObject({ cmd: 'puback', messageId: 1 });
      client.send(publishPacket(`devices/${id}/telemetry`, `{"__proto__":5}`, { messageId: 2 }));
      expect(await client.next()).toMatchObject({ cmd: 'puback', messageId: 2 });
      client.send(subscribePacket([`devices/${id}/commands`], 3));
      await client.next();
      const params = `{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}`;
      const body = `{"name":"constructor","key":"__proto__","params":${params}}`;
      const issued = await server.live.request<{ id: string }>('POST', `/v1/devices/${id}/commands`, { body });
      expect(issued.status).toBe(201);
      const pushed = await client.next();
      expect(pushed?.cmd === 'publish' && pushed.payload.toString()).toContain(`"params":${params}`);
      client.send(
        publishPacket(`devices/${id}/commands/${issued.body.id}`, `{"state":"succeeded","result":${params}}`, { messageId: 4 }),
      );
      await client.next();
      await server.live.commandIn(issued.body.id, 'succeeded');
      client.end();
    });
    const { body: latest } = await server.live.request<{ metrics: Record<string, { value: unknown }> }>(
      'GET',
      `/v1/devices/${id}/telemetry/latest`,
    );
    expect(Object.fromEntries(Object.entries(latest.metrics).map(([metric, { value }]) => [metric, value]))).toEqual(
      JSON.parse('{"x":1,"constructor":2,"toString":3,"__proto__":5}'),
    );
    for (const metric of ['constructor', 'toString', '__proto__']) {
      const { body } = await server.live.request<{ points: unknown[] }>('GET', `/v1/devices/${id}/telemetry?metric=${metric}`);
      expect(body.points, metric).toHaveLength(1);
    }
    const { body: shown } = await server.live.request<{ labels: object }>('GET', `/v1/devices/${id}`);
    expect(JSON.stringify(shown.labels)).toBe(JSON.stringify(labels));
    const { body: filtered } = await server.live.request<{ devices: { id: string }[] }>(
      'GET',
      `/v1/devices?label=constructor:${id}&label=__proto__:x`,
    );
    expect(filtered.devices?.map((device) => device.id) ?? []).toEqual([id]);
  },
);

test('50,000 retained messages of a device are kept for nobody', { timeout: 120_000 }, async () => {
  const { id, client } = await attacker();
  await server.withstands('50,000 retained messages', async () => {
    for (let n = 0; n < 50_000 && !client.isClosed; n += 500) {
      const many = Array.from({ length: 500 }, (_, i) =>
        publishPacket(`devices/${id}/telemetry/${n + i}`, 'x'.repeat(100), { qos: 0, retain: true }),
      );
      client.send(Buffer.concat(many));
      await Promise.race([client.untilPong(), client.closed]);
    }
    client.end();
  });
});

test(
  '65,535 QoS 2 messages that are never released: what is kept of them is bounded, and released with the session',
  { timeout: 120_000 },
  async () => {
    const { id, token } = await attacker();
    await server.withstands('QoS 2 never released', async () => {
      for (let n = 1; n <= 65_535; n += 1_000) {
        const packets: Buffer[] = [];
        for (let i = n; i < Math.min(n + 1_000, 65_536); i += 1) {
          packets.push(publishPacket(`devices/${id}/telemetry`, `{"q":${i}}`, { qos: 2, messageId: i }));
        }
        // The session is taken up again when the server has had enough of it.
        const client = await RawMqtt.login(server.mqttPort, id, token, { clean: false });
        client.send(Buffer.concat(packets));
        for (const _ of packets) if ((await client.next()) === undefined) break;
        client.end();
      }
      // A new session forgets the old one's handshakes.
      const fresh = await RawMqtt.login(server.mqttPort, id, token);
      await fresh.untilPong();
      fresh.end();
    });
  },
);

test('a flood of SUBSCRIBE and UNSUBSCRIBE leaves nothing behind', async () => {
  const { id, client } = await attacker();
  await server.withstands('SUBSCRIBE and UNSUBSCRIBE, 10,000 times', async () => {
    const pair = Buffer.concat([
      subscribePacket([`devices/${id}/commands`, `devices/${id}/notify`], 1),
      generate({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: [`devices/${id}/commands`, `devices/${id}/notify`, 'x'] }),
    ]);
    for (let n = 0; n < 100 && !client.isClosed; n += 1) {
      client.send(Buffer.concat([...Array.from({ length: 100 }, () => pair), PINGREQ]));
      await Promise.race([client.untilPong(), client.closed]);
    }
    client.end();
  });
});
