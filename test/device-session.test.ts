import { PassThrough } from 'node:stream';
import type { Client } from 'aedes';
import { parser, type Packet } from 'mqtt-packet';
import { expect, test } from 'vitest';
import { DeviceSession } from '../broker/mqtt/device-session.ts';
import { commandOf } from './history-fixtures.ts';

/** A device's connection, of which nothing is read unless it is asked for. */
const BACKLOG_BYTES_MAX = 10_000;

function open(subscribedQos: number): {
  session: DeviceSession;
  sent: () => Packet[];
  dropped: () => number;
  waits: () => number;
} {
  const conn = new PassThrough({ highWaterMark: 1_000 });
  let waits = 0;
  let dropped = 0;
  const client = { conn, closed: false, waitForDrain: () => (waits += 1), close: () => {} } as unknown as Client;
  const session = new DeviceSession('d', client, { bytesMax: BACKLOG_BYTES_MAX, onDropped: () => (dropped += 1) });
  session.commandsQos = subscribedQos;
  session.notifyQos = subscribedQos;
  const sent = (): Packet[] => {
    const packets: Packet[] = [];
    const read = parser();
    read.on('packet', (packet) => packets.push(packet));
    for (let chunk: unknown = conn.read(); chunk !== null; chunk = conn.read()) read.parse(chunk as Buffer);
    return packets;
  };
  return { session, sent, dropped: () => dropped, waits: () => waits };
}

test('a command is on its way when the push returns, and its PUBACK finds it', () => {
  const { session, sent } = open(1);
  const command = commandOf('d', { params: { über: 'all' } });
  session.push(command);
  const [packet] = sent();
  expect(packet).toMatchObject({ cmd: 'publish', topic: 'devices/d/commands', qos: 1, dup: false, retain: false });
  if (packet?.cmd !== 'publish') throw new Error('no PUBLISH');
  expect(JSON.parse(packet.payload.toString())).toMatchObject({ id: command.id, params: { über: 'all' } });
  expect(session.takeConfirmed(packet.messageId ?? 0)).toBe(command.id);
});

test.each([
  [0, 0],
  [1, 1],
  [2, 1],
])('subscribed to with QoS %i, commands and notifications go out with QoS %i [MQTT-3.8.4-6]', (subscribedQos, qos) => {
  const { session, sent } = open(subscribedQos);
  session.push(commandOf('d'));
  expect(session.notify(3, true)).toBe(true);
  expect(sent()).toMatchObject([
    { topic: 'devices/d/commands', qos },
    { topic: 'devices/d/notify', qos, payload: Buffer.from('{"pending":3,"urgent":true}') },
  ]);
});

test('no message id of what is unconfirmed is given to anything else', () => {
  const { session, sent } = open(1);
  const command = commandOf('d');
  session.push(command);
  for (let i = 0; i < 65_540; i += 1) {
    const messageId = session.nextMessageId();
    if (messageId === 1) throw new Error(`after ${i}`);
  }
  expect(sent()).toMatchObject([{ messageId: 1 }]);
  expect(session.takeConfirmed(1)).toBe(command.id);
});

test('a device that does not read is waited for, and beyond the bound nothing is sent to it, which is told', () => {
  const { session, sent, dropped, waits } = open(1);
  const large = commandOf('d', { params: { text: 'x'.repeat(6_000) } });
  session.push(large);
  session.push(large);
  expect(dropped()).toBe(0);
  expect(waits()).toBe(2);
  session.push(large);
  expect(session.notify(1, false)).toBe(false);
  expect(dropped()).toBe(1);
  expect(sent()).toHaveLength(2);
  session.push(large);
  expect(sent()).toHaveLength(1);
});

test('nothing is written to a connection that is closed', () => {
  const { session, sent } = open(1);
  Object.assign(session.client, { closed: true });
  session.push(commandOf('d'));
  expect(sent()).toEqual([]);
});
