import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { EventSource } from './event-source.ts';
import { LiveServer, TestClock, type MqttDevice } from './live-server.ts';
import { MuteDevice } from './mute-device.ts';
import { commandsIn, PullingDevice } from './pulling-device.ts';

/** One lease whatever the transports: devices that are connected and poll as well, against a live server whose clock stands still until it is moved. */
let clock: TestClock;
let server: LiveServer;
let own: PullingDevice;
let id: string;
let token: string;
let nth = 0;

beforeAll(async () => {
  clock = new TestClock(Date.parse('2026-05-01T10:10:00Z'));
  server = await LiveServer.start({}, clock);
});
afterAll(() => server.close());
beforeEach(async () => {
  own = await PullingDevice.register(server, `valve-${(nth += 1)}`);
  ({ id, token } = own);
});

async function onMqtt(qos: 0 | 1 = 1): Promise<MqttDevice> {
  const device = await server.connect(id, token);
  await device.subscribe('commands', qos);
  return device;
}

const mute = (): Promise<MuteDevice> => MuteDevice.connect(server, id, token);

async function countIn(state: string): Promise<number> {
  const { body } = await server.request<{ commands: unknown[] }>('GET', `/v1/devices/${id}/commands?state=${state}`);
  return body.commands.length;
}

async function until(isSo: () => Promise<boolean>): Promise<void> {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 10));
}

describe('a device on MQTT that also polls', () => {
  test('gets each command once', async () => {
    const device = await onMqtt();
    const issued = new Set<string>();
    const polled: string[] = [];
    for (let i = 0; i < 20; i += 1) {
      issued.add(await own.issue(`n${i}`));
      polled.push(...commandsIn(await own.poll()).map((command) => command.id));
    }
    const pushed: string[] = [];
    while (pushed.length + polled.length < 20) pushed.push(String((await device.next()).body['id']));
    expect(new Set([...pushed, ...polled])).toEqual(issued);
    expect(device.pending).toBe(0);
    await device.end();
  });

  test('and does not PUBACK has a push with its next poll once a PUBACK is overdue, and not before', async () => {
    const device = await mute();
    const commandId = await own.issue('open');
    await server.commandIn(commandId, 'sent');
    expect((await own.poll()).status).toBe(204);
    clock.advance(4_999);
    expect((await own.poll()).status).toBe(204);
    clock.advance(1);
    expect((await own.poll()).body.commands).toMatchObject([{ id: commandId, attempt: 2 }]);
    expect(await server.command(commandId)).toMatchObject({ state: 'sent', transport: 'http' });
    expect((await own.poll()).status).toBe(204);
    await own.report(commandId);
    expect(device.messages).toHaveLength(1);
    await device.vanish();
  });

  test('and does not PUBACK has a push with its next poll after the lease as well, though it was pushed again meanwhile', async () => {
    const device = await mute();
    const commandId = await own.issue('open');
    await server.commandIn(commandId, 'sent');
    clock.advance(30_000);
    await until(async () => (await server.command(commandId)).attempts === 2);
    expect((await own.poll()).body.commands).toMatchObject([{ id: commandId, attempt: 3 }]);
    await device.vanish();
  });

  test('behind a connection that died unseen has what is issued from then on with its poll at once, also one that waits', async () => {
    const device = await mute();
    const first = await own.issue('first');
    await server.commandIn(first, 'sent');
    const waiting = own.poll('?wait=60');
    clock.advance(5_000);
    expect((await waiting).body.commands).toMatchObject([{ id: first }]);
    await own.report(first);
    // The session has shown nothing wrong but a PUBACK that is overdue; with a lease that lapsed it is not trusted any more.
    const second = await own.issue('second');
    clock.advance(30_000);
    await until(async () => (await server.command(second)).attempts === 2);
    expect((await own.poll()).body.commands).toMatchObject([{ id: second }]);
    const third = await own.issue('third');
    expect((await own.poll()).body.commands).toMatchObject([{ id: third }]);
    await device.vanish();
  });

  test('a late PUBACK of a command that a poll has taken over counts: the device has it', async () => {
    const device = await mute();
    const commandId = await own.issue('open');
    await server.commandIn(commandId, 'sent');
    clock.advance(5_000);
    expect((await own.poll()).body.commands).toHaveLength(1);
    device.acknowledge();
    await server.commandIn(commandId, 'delivered');
    await device.vanish();
  });

  test('subscribed with QoS 0, which has no PUBACK, keeps its lease; after it the command falls to the next poll', async () => {
    const device = await onMqtt(0);
    const commandId = await own.issue('open');
    await device.next();
    clock.advance(29_999);
    expect((await own.poll()).status).toBe(204);
    clock.advance(1);
    expect((await device.next()).body).toMatchObject({ id: commandId, attempt: 2 });
    expect((await own.poll()).body.commands).toMatchObject([{ id: commandId, attempt: 3 }]);
    await device.end();
  });

  test('and has used up the attempts on the wire keeps the last one there until its lease lapses', async () => {
    const device = await mute();
    const commandId = await own.issue('open', { maxAttempts: 1 });
    await server.commandIn(commandId, 'sent');
    clock.advance(6_000);
    expect((await own.poll()).status).toBe(204);
    device.acknowledge();
    await server.commandIn(commandId, 'delivered');
    await device.vanish();
  });

  test('with a full window of unconfirmed commands polls those behind it', async () => {
    const device = await mute();
    for (let i = 0; i < 11; i += 1) await own.issue(`n${i}`);
    await until(async () => device.messages.length === 8);
    expect(await countIn('queued')).toBe(3);
    const { body } = await own.poll();
    expect(body.commands).toHaveLength(3);
    await device.vanish();
  });
});

describe('a device that follows events and polls', () => {
  test('gets each command once', async () => {
    const stream = await EventSource.open(server, token);
    const issued: string[] = [];
    for (let i = 0; i < 12; i += 1) issued.push(await own.issue(`n${i}`));
    const got: string[] = [];
    for (let i = 0; i < 8; i += 1) got.push(String((await stream.next()).body['id']));
    const { body } = await own.poll();
    got.push(...(body.commands ?? []).map((command) => command.id));
    expect(got.toSorted()).toEqual(issued.toSorted());
    expect(stream.pending).toBe(0);
    stream.close();
  });

  test('has with its poll what the stream did not confirm within the lease', async () => {
    const stream = await EventSource.open(server, token);
    const commandId = await own.issue('open');
    await stream.next();
    clock.advance(29_000);
    expect((await own.poll()).status).toBe(204);
    clock.advance(1_000);
    expect((await stream.next()).body).toMatchObject({ id: commandId, attempt: 2 });
    expect((await own.poll()).body.commands).toMatchObject([{ id: commandId, attempt: 3 }]);
    stream.close();
  });

  test('has at once what came after an event that it polls with: the stream was lost there', async () => {
    const stream = await EventSource.open(server, token);
    const [first, second] = [await own.issue('first'), await own.issue('second')];
    const { id: place } = await stream.next();
    await stream.next();
    const { body } = await own.poll(`?since=${place}`);
    expect(body.commands).toMatchObject([{ id: second }]);
    expect((await server.command(first)).state).toBe('delivered');
    stream.close();
  });
});

describe('a device on MQTT and following events at once', () => {
  test('gets each command once, by the way that was opened last; when that ends, by the other', async () => {
    const device = await onMqtt();
    const early = await own.issue('early');
    expect((await device.next()).body).toMatchObject({ id: early });
    const stream = await EventSource.open(server, token);
    const byEvents = await own.issue('by_events');
    expect((await stream.next()).body).toMatchObject({ id: byEvents });
    await own.report(byEvents);
    stream.close();
    const byMqtt = await own.issue('by_mqtt');
    expect((await device.next()).body).toMatchObject({ id: byMqtt });
    await server.commandIn(byMqtt, 'delivered');
    expect(device.pending + stream.pending).toBe(0);
    await device.end();
  });

  test('keeps on the older way what is on the wire there', async () => {
    const device = await mute();
    const onWire = await own.issue('on_wire');
    await server.commandIn(onWire, 'sent');
    const stream = await EventSource.open(server, token);
    const later = await own.issue('later');
    expect((await stream.next()).body).toMatchObject({ id: later });
    expect(await server.command(onWire)).toMatchObject({ state: 'sent', transport: 'mqtt', attempts: 1 });
    device.acknowledge();
    await server.commandIn(onWire, 'delivered');
    expect(stream.pending).toBe(0);
    stream.close();
    await device.vanish();
  });

  test('has what a stream had not confirmed over MQTT when the stream ends', async () => {
    const device = await onMqtt();
    const stream = await EventSource.open(server, token);
    const commandId = await own.issue('open');
    await stream.next();
    stream.close();
    expect((await device.next()).body).toMatchObject({ id: commandId, attempt: 2 });
    await server.commandIn(commandId, 'delivered');
    await device.end();
  });
});

describe('odd clients', () => {
  test('a PUBACK for a message that was never sent changes nothing', async () => {
    const device = await mute();
    const commandId = await own.issue('open');
    await server.commandIn(commandId, 'sent');
    for (const messageId of [4_711, 65_535]) device.puback(messageId);
    await device.ping();
    expect((await server.command(commandId)).state).toBe('sent');
    device.acknowledge();
    await server.commandIn(commandId, 'delivered');
    await device.vanish();
  });

  test('a long-lived one whose window is full of unconfirmed commands has them again after each lease, and the rest when it confirms', async () => {
    const device = await mute();
    for (let i = 0; i < 10; i += 1) await own.issue(`n${i}`, { maxAttempts: 100 });
    for (let lease = 1; lease <= 3; lease += 1) {
      await until(async () => device.messages.length === 8 * lease);
      clock.advance(30_000);
    }
    await until(async () => device.messages.length === 32);
    expect(await countIn('queued')).toBe(2);
    device.acknowledge();
    await until(async () => (await countIn('delivered')) === 10);
    expect(new Set(device.messages.map(({ body }) => body['id'])).size).toBe(10);
    await device.vanish();
  });

  test('one that reconnects ten times in a moment does not use up the attempts of its commands, and gets them when it stays', async () => {
    const commandId = await own.issue('open');
    for (let i = 0; i < 10; i += 1) {
      const device = await mute();
      await device.vanish();
    }
    expect((await server.command(commandId)).attempts).toBeLessThan(5);
    const device = await onMqtt();
    clock.advance(30_000);
    expect((await device.next()).body).toMatchObject({ id: commandId });
    await server.commandIn(commandId, 'delivered');
    await device.end();
  });

  test('one that opens ten streams in a moment likewise', async () => {
    const commandId = await own.issue('open');
    for (let i = 0; i < 10; i += 1) await EventSource.open(server, token);
    expect((await server.command(commandId)).attempts).toBeLessThan(5);
    const stream = await EventSource.open(server, token);
    clock.advance(30_000);
    expect((await stream.next()).body).toMatchObject({ id: commandId });
    await own.report(commandId);
    expect(await server.command(commandId)).toMatchObject({ state: 'succeeded' });
    stream.close();
  });
});
