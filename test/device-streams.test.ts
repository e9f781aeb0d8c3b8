import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { Notifier } from '../broker/commands/notifier.ts';
import { DeviceStream } from '../dashboard-api/stream/device-stream.ts';
import { DeviceStreams } from '../dashboard-api/stream/device-streams.ts';
import { PullStack } from './pull-stack.ts';

/** Devices' streams over real connections, without a server around them; beats are given by hand. */
let http: Server;
let stack: PullStack;
const clients: IncomingMessage[] = [];

beforeEach(async () => {
  stack = await PullStack.open();
  http = createServer();
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  http.closeAllConnections();
  http.close();
  await stack.close();
});

/** The server's end of a new connection; the client's end begins to be read when the test says so. */
async function connection(): Promise<{ response: ServerResponse; client: Promise<IncomingMessage> }> {
  const asked = request({ port: (http.address() as AddressInfo).port, agent: false });
  asked.on('error', () => {});
  asked.end();
  const client = once(asked, 'response').then(([message]) => {
    const incoming = message as IncomingMessage;
    incoming.on('error', () => {});
    clients.push(incoming);
    return incoming;
  });
  const [, response] = (await once(http, 'request')) as [IncomingMessage, ServerResponse];
  return { response, client };
}

const BACKLOG_BYTES_MAX = 128 * 1024;
const NEVER_FULL = { backlogBytesMax: Number.POSITIVE_INFINITY, onFull: () => {}, onDrain: () => {} };
const PAYLOAD = Buffer.alloc(32_768, 1).toString('base64');

describe('a client that does not read', () => {
  test('is sent no more than a bound; what is left stays queued, and comes when it reads on', async () => {
    const device = await stack.device('slow');
    const { response, client } = await connection();
    let timesFull = 0;
    const stream = new DeviceStream('slow', response, {
      cursorOf: (after, through) => stack.pull.cursorOf(device, { way: 'sse', after, through }),
      nextHandover: () => stack.ledger.nextHandover(),
      backlogBytesMax: BACKLOG_BYTES_MAX,
      onFull: () => (timesFull += 1),
      onDrain: () => stack.dispatcher.dispatch('slow'),
    });
    stream.open();
    stack.dispatcher.open(stream);
    const incoming = await client;
    // Each is confirmed as soon as it is sent, so that only the socket stands in the way.
    const confirmSent = (): void => {
      for (;;) {
        const sent = stack.ledger.book.of('slow').find(({ state }) => state === 'sent');
        if (sent === undefined) return;
        stack.ledger.tryStep(sent.id, { type: 'confirm', transport: 'http' });
      }
    };
    for (let i = 0; i < 400; i += 1) {
      await stack.issue('slow', { payload: PAYLOAD });
      confirmSent();
    }
    const queued = (): number => stack.ledger.book.of('slow').filter(({ state }) => state === 'queued').length;
    expect(queued()).toBeGreaterThan(100);
    expect(response.writableLength).toBeLessThan(2 * BACKLOG_BYTES_MAX);
    expect(timesFull).toBeGreaterThan(0);
    incoming.resume();
    while (queued() > 0) {
      await new Promise(setImmediate);
      confirmSent();
    }
    expect(response.destroyed).toBe(false);
  });

  test('is gone after four beats, and one that reads again in time is not', async () => {
    await stack.device('slow');
    const { response, client } = await connection();
    const stream = new DeviceStream('slow', response, { cursorOf: () => 'x', nextHandover: () => 1, ...NEVER_FULL });
    stream.open();
    const incoming = await client;
    const fill = (): void => {
      while (!response.writableNeedDrain || response.writableLength < 64 * 1024) response.write('x'.repeat(65_536));
    };
    fill();
    for (let i = 0; i < 3; i += 1) stream.beat();
    const drained = once(response, 'drain');
    incoming.resume();
    await drained;
    stream.beat();
    expect(response.destroyed).toBe(false);
    incoming.pause();
    for (let i = 0; i < 40; i += 1) {
      fill();
      await new Promise(setImmediate);
    }
    fill();
    for (let i = 0; i < 4; i += 1) stream.beat();
    expect(response.destroyed).toBe(true);
  });

  test('has each beat as a comment while it reads', async () => {
    const { response, client } = await connection();
    const stream = new DeviceStream('d', response, { cursorOf: () => 'x', nextHandover: () => 1, ...NEVER_FULL });
    stream.open();
    stream.beat();
    stream.close('the end');
    stream.beat();
    let text = '';
    for await (const chunk of await client) text += String(chunk);
    expect(text).toBe('retry: 3000\n\n: beat\n\nretry: 3000\n: the end\n\n');
  });
});

test('as many streams as the server allows are open; the next is refused, and told when to come back', async () => {
  const { ledger, dispatcher, pull, presence, registry, clock } = stack;
  const notifier = new Notifier(ledger, dispatcher, clock);
  const streams = new DeviceStreams(
    { ledger, dispatcher, notifier, pull, presence, registry },
    {
      bounds: { ...DEFAULT_BOUNDS, device_streams: 3 },
      reached: () => {},
    },
  );
  const late = await stack.device('late');
  for (let i = 0; i < 3; i += 1) {
    streams.assertRoom(late);
    streams.open(await stack.device(`d${i}`), (await connection()).response);
  }
  expect(() => streams.assertRoom(late)).toThrow(expect.objectContaining({ code: 'too_many_streams', retryAfterSeconds: 30 }));
  const { response } = await connection();
  clients[0]?.destroy();
  while (streams.size === 3) await new Promise(setImmediate);
  streams.assertRoom(late);
  streams.open(late, response);
  streams.close();
  expect(streams.size).toBe(0);
  notifier.stop();
});
