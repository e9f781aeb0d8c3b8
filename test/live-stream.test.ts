import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { LiveEvents } from '../broker/live-events.ts';
import { LiveStream } from '../dashboard-api/stream/live-stream.ts';
import { eventText } from '../dashboard-api/stream/stream-text.ts';

/** One stream over a real connection, its beats given by hand. */
let http: Server;
let events: LiveEvents;
let stream: LiveStream;
let response: ServerResponse;
let client: IncomingMessage;
let leave: () => void;

beforeEach(async () => {
  events = new LiveEvents('run', { now: () => Date.now() });
  http = createServer();
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  const asked = request({ port: (http.address() as AddressInfo).port, agent: false });
  asked.on('error', () => {});
  asked.end();
  [, response] = (await once(http, 'request')) as [IncomingMessage, ServerResponse];
  stream = new LiveStream(response, {
    keyId: 'key',
    events,
    filter: { types: new Set(['telemetry']), devices: new Set(['mine']) },
    backlogBytesMax: DEFAULT_BOUNDS.stream_backlog_bytes,
    onBehind: () => {},
    textOf: ({ sequence, event }) => eventText(`run-${sequence}`, event),
  });
  leave = events.subscribe((numbered) => stream.take(numbered));
  stream.open(undefined);
  [client] = (await once(asked, 'response')) as [IncomingMessage];
  client.on('error', () => {});
});

afterEach(() => {
  leave();
  client.destroy();
  http.closeAllConnections();
  http.close();
});

function publish(deviceId: string, text = ''): void {
  events.publish({ type: 'telemetry', deviceId, timeNs: '1700000000000000000', values: { text } });
}

async function textUntil(end: string): Promise<string> {
  let text = '';
  client.setEncoding('utf8');
  for await (const chunk of client) {
    text += chunk as string;
    if (text.endsWith(end)) break;
  }
  return text;
}

test('a beat keeps the connection alive and moves the client’s place past what its filter hid', async () => {
  for (let i = 0; i < 5; i += 1) publish('another');
  stream.beat();
  expect(await textUntil('id: run-5\n\n')).toBe('retry: 3000\nid: run-0\n\n: beat\n\nid: run-5\n\n');
});

test('a client that reads nothing for four beats is cut, and one that reads again in time is not', async () => {
  const block = 'x'.repeat(100_000);
  const fill = async (): Promise<void> => {
    // Until the socket's own buffers on both sides are full.
    for (let i = 0; i < 200; i += 1) {
      publish('mine', block);
      await new Promise(setImmediate);
    }
  };
  await fill();
  expect(response.writableLength).toBeGreaterThan(256 * 1024);
  expect(response.writableLength).toBeLessThan(1024 * 1024);
  for (let i = 0; i < 3; i += 1) stream.beat();
  const drained = once(response, 'drain');
  client.resume();
  await drained;
  stream.beat();
  expect(response.destroyed).toBe(false);
  client.pause();
  await fill();
  for (let i = 0; i < 4; i += 1) stream.beat();
  expect(response.destroyed).toBe(true);
});

test('a client that reads nothing is cut also while its stream has not fallen behind', async () => {
  const isClogged = async (): Promise<boolean> => {
    await new Promise((resolve) => setTimeout(resolve, 20));
    return response.writableNeedDrain;
  };
  do publish('mine', 'x'.repeat(20_000));
  while (!(await isClogged()));
  expect(response.writableLength).toBeLessThan(DEFAULT_BOUNDS.stream_backlog_bytes);
  for (let i = 0; i < 4; i += 1) stream.beat();
  expect(response.destroyed).toBe(true);
});

test('a closed stream writes nothing more', async () => {
  stream.close('the end');
  publish('mine');
  stream.beat();
  stream.close('again');
  expect(await textUntil('never')).toBe('retry: 3000\nid: run-0\n\n: the end\n\n');
});
