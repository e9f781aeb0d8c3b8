import { randomInt } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { AttackedTls } from './attacks/attacked-tls.ts';
import {
  ERROR,
  FLAG,
  FRAME,
  frameOf,
  indexed,
  literal,
  RawHttp2,
  requestHeaders,
  SETTING,
  settings,
  uint32,
} from './attacks/raw-http2.ts';
import type { AttackedServer } from './healthy-device.ts';

/** Attacks by HTTP/2 frames. FUZZ_HTTP2 sets how many sessions say nonsense, FUZZ_SEED repeats a run. */
const CONNECTIONS = Number(process.env['FUZZ_HTTP2'] ?? 600);
const SEED = Number(process.env['FUZZ_SEED'] ?? randomInt(2 ** 31));
const AT_ONCE = 10;
const RUN_MS_MAX = 120_000;

let attacked: AttackedTls;
let server: AttackedServer;
let ca: string;

beforeAll(async () => {
  attacked = await AttackedTls.start();
  ({ server, ca } = attacked);
});

afterAll(() => attacked.close());

describe('over HTTP/2', () => {
  const MANY = 20_000;
  const end = FLAG.endHeaders | FLAG.endStream;
  const request = (stream: number, path = '/healthz'): Buffer => frameOf(FRAME.headers, end, stream, requestHeaders(path));
  const unfinished = (stream: number): Buffer =>
    frameOf(FRAME.headers, FLAG.endHeaders, stream, requestHeaders('/v1/device/telemetry', {}, 'POST'));
  const odd = (n: number): number => 2 * n + 1;

  async function session(first?: Buffer, isBare = false): Promise<RawHttp2> {
    return RawHttp2.open(server.live.httpsPort, { ca }, first, isBare);
  }

  /** Another one is served all the same. */
  async function isServed(): Promise<void> {
    const client = await session();
    client.request(1);
    expect(await client.answered(1)).toBe(true);
    client.end();
  }

  describe('a flood ends the session', () => {
    test.each<[string, (n: number) => Buffer]>([
      ['requests that are reset', (n) => Buffer.concat([request(odd(n)), frameOf(FRAME.reset, 0, odd(n), uint32(ERROR.cancel))])],
      // The server is made to reset them: "MadeYouReset", CVE-2025-8671.
      [
        'requests that have to be reset',
        (n) => Buffer.concat([request(odd(n)), frameOf(FRAME.windowUpdate, 0, odd(n), uint32(0))]),
      ],
      ['requests that never end', (n) => unfinished(odd(n))],
      ['malformed requests', (n) => frameOf(FRAME.headers, end, odd(n), literal('Upper', 'x'))],
      ['settings', () => settings([SETTING.initialWindowSize, 65_535])],
      ['pings', () => frameOf(FRAME.ping, 0, 0, Buffer.alloc(8))],
    ])('%s', async (name, next) => {
      await server.withstands(`HTTP/2: ${name}`, async () => {
        const client = await session();
        // What would be said to it is never read.
        if (name === 'settings' || name === 'pings') client.socket.pause();
        const times = client.socket.isPaused() ? 40 * MANY : MANY;
        await client.flood(times / 20, (n) => Buffer.concat(Array.from({ length: 20 }, (_, i) => next(20 * n + i))));
        client.socket.resume();
        await client.over;
        client.end();
      });
      await isServed();
    });

    test.each<[string, Buffer]>([
      ['CONTINUATION frames', frameOf(FRAME.continuation, 0, 1, literal('x', 'y'.repeat(1_000)))],
      ['empty CONTINUATION frames', frameOf(FRAME.continuation, 0, 1)],
      ['CONTINUATION frames of indexed headers', frameOf(FRAME.continuation, 0, 1, Buffer.alloc(10_000, 0x82))],
    ])('%s', async (name, again) => {
      await server.withstands(`HTTP/2: ${name}`, async () => {
        const client = await session();
        client.send(frameOf(FRAME.headers, FLAG.endStream, 1, requestHeaders('/healthz')));
        await client.flood(MANY, () => again);
        await client.over;
        client.end();
      });
      await isServed();
    });
  });

  describe('a frame that may not be ends the session', () => {
    const faults: [string, Buffer][] = [
      ['one of 16 MB', frameOf(FRAME.data, 0, 1, Buffer.alloc(100), 2 ** 24 - 1)],
      ['data of no request', frameOf(FRAME.data, 0, 5, Buffer.alloc(10))],
      ['a request of the server', request(2)],
      ['headers of stream 0', request(0)],
      ['a continuation of nothing', frameOf(FRAME.continuation, FLAG.endHeaders, 1)],
      ['a promise', frameOf(FRAME.pushPromise, FLAG.endHeaders, 1, Buffer.concat([uint32(2), requestHeaders('/')]))],
      ['a ping of 7 octets', frameOf(FRAME.ping, 0, 0, Buffer.alloc(7))],
      ['settings of 5 octets', frameOf(FRAME.settings, 0, 0, Buffer.alloc(5))],
      ['a window of 2^31', settings([SETTING.initialWindowSize, 2 ** 31])],
      ['a frame size of 1', settings([SETTING.maxFrameSize, 1])],
      [
        'a window that overflows',
        Buffer.concat(Array.from({ length: 2 }, () => frameOf(FRAME.windowUpdate, 0, 0, uint32(2 ** 31 - 1)))),
      ],
      ['a window that grows by nothing', frameOf(FRAME.windowUpdate, 0, 0, uint32(0))],
      ['a reset of what never was', frameOf(FRAME.reset, 0, 99, uint32(ERROR.cancel))],
      ['padding longer than the frame', frameOf(FRAME.headers, end | FLAG.padded, 1, Buffer.from([255, 0x82]))],
      ['an index of nothing', frameOf(FRAME.headers, end, 1, Buffer.from([0xff, 0xff, 0xff, 0x7f]))],
      ['an index without an end', frameOf(FRAME.headers, end, 1, Buffer.alloc(100, 0xff))],
      ['a table of 4 GB', frameOf(FRAME.headers, end, 1, Buffer.from([0x3f, 0xff, 0xff, 0xff, 0xff, 0x0f]))],
      ['Huffman code of nothing', frameOf(FRAME.headers, end, 1, Buffer.from([0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, 0x78]))],
    ];

    test('of each kind, and a preface that is none', async () => {
      await server.withstands('HTTP/2: frames that may not be', async () => {
        const lived: string[] = [];
        for (const [name, octets] of faults) {
          const client = await session();
          client.send(octets);
          // What is wrong with one request may be that request's end alone.
          const isOver = await Promise.race([client.over.then(() => true), waited(2_000)]);
          if (!isOver && !client.resets.has(1)) lived.push(name);
          client.end();
        }
        for (const first of ['GET / HTTP/1.1\r\n\r\n', 'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n', '\u0000'.repeat(100)]) {
          const client = await session(undefined, true);
          client.send(Buffer.from(first));
          await client.over;
          client.end();
        }
        expect(lived).toEqual([]);
      });
      await isServed();
    });
  });

  test('a header bomb is refused: 4 KB that a few octets repeat', async () => {
    await server.withstands('HTTP/2: header bomb', async () => {
      const client = await session();
      client.send(
        frameOf(
          FRAME.headers,
          FLAG.endStream,
          1,
          Buffer.concat([requestHeaders('/healthz'), indexed('bomb', 'x'.repeat(3_900))]),
        ),
      );
      client.send(frameOf(FRAME.continuation, FLAG.endHeaders, 1, Buffer.alloc(16_000, 0xbe)));
      expect(await client.answered(1)).toBe(false);
      client.end();
    });
    await isServed();
  });

  test('more streams at a time than may be end the session of a client that has acknowledged how many', async () => {
    await server.withstands('HTTP/2: 101 streams at a time', async () => {
      const client = await session();
      client.request(1);
      expect(await client.answered(1)).toBe(true);
      // In one write: none is answered before all have come.
      client.send(Buffer.concat(Array.from({ length: 101 }, (_, n) => unfinished(odd(n + 1)))));
      await client.over;
      client.end();
    });
    await isServed();
  });

  test('more streams at a time than may be are refused, and the others served', async () => {
    await server.withstands('HTTP/2: 150 streams at a time', async () => {
      const client = await session();
      for (let n = 0; n < 150; n += 1) client.send(unfinished(odd(n)));
      while (client.resets.size < 50 && !client.isClosed) await waited(10);
      expect([...client.resets.values()].filter((why) => why === ERROR.refusedStream)).toHaveLength(50);
      client.end();
    });
    await isServed();
  });

  test('answers that are never read take no more than they may', { timeout: RUN_MS_MAX }, async () => {
    const sessions: RawHttp2[] = [];
    await server.withstands('HTTP/2: answers never read', async () => {
      for (let n = 0; n < 20; n += 1) {
        const client = await session(settings([SETTING.initialWindowSize, 0]));
        sessions.push(client);
        for (let stream = 0; stream < 100; stream += 1) client.request(odd(stream), '/openapi.json');
      }
      await waited(1_000);
      for (const client of sessions) client.end();
    });
    await isServed();
  });

  const anyFrame = fc
    .tuple(
      fc.nat(12),
      fc.nat(255),
      fc.oneof(fc.nat(9), fc.nat(2 ** 31 - 1)),
      fc.oneof(
        fc.uint8Array({ maxLength: 60 }).map((octets) => Buffer.from(octets)),
        fc.constant(requestHeaders('/healthz')),
      ),
      fc.option(fc.nat(2 ** 24 - 1), { nil: undefined, freq: 9 }),
    )
    .map(([type, flags, stream, payload, claims]) => frameOf(type, flags, stream, payload, claims ?? payload.length));

  test('frames of all kinds are answered, or end the session', async () => {
    process.stdout.write(`seed ${SEED}: FUZZ_SEED=${SEED} repeats it\n`);
    const talk = async (frames: Buffer[]): Promise<void> => {
      const client = await session();
      client.send(...frames);
      await Promise.race([client.over, waited(200)]);
      client.end();
    };
    await server.withstands(`${CONNECTIONS} HTTP/2 sessions of nonsense`, () =>
      fc.assert(
        fc.asyncProperty(
          fc.array(fc.array(anyFrame, { minLength: 1, maxLength: 8 }), { minLength: AT_ONCE, maxLength: AT_ONCE }),
          async (talks) => {
            await Promise.all(talks.map(talk));
            expect(server.process.isRunning).toBe(true);
          },
        ),
        { numRuns: Math.ceil(CONNECTIONS / AT_ONCE), seed: SEED, endOnFailure: true },
      ),
    );
    await isServed();
  });
});

function waited(ms: number): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), ms));
}
