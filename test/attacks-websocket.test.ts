import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import fc from 'fast-check';
import type { Packet } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { conversation } from './attacks/mutations.ts';
import { portOf, rawHttp } from './attacks/raw-http.ts';
import { connectPacket, PINGREQ, publishPacket } from './attacks/raw-mqtt.ts';
import { closePayload, frame, OPCODE, RawWebSocket, UPGRADE_REQUEST, type Frame } from './attacks/raw-websocket.ts';
import { AttackedServer } from './healthy-device.ts';

/**
 * Attacks by the frames that MQTT over WebSocket comes in. FUZZ_WEBSOCKETS sets how many connections say broken ones, FUZZ_SEED repeats a run.
 */
const WEBSOCKETS = Number(process.env['FUZZ_WEBSOCKETS'] ?? 1_500);
const SEED = Number(process.env['FUZZ_SEED'] ?? randomInt(2 ** 31));
const AT_ONCE = 10;
const ANSWER_MS_MAX = 20_000;
const RUN_MS_MAX = 60_000 + WEBSOCKETS * 100;
const KIB = 1024;

let server: AttackedServer;
let port: number;
let token: string;

beforeAll(async () => {
  server = await AttackedServer.start({
    DOWNLINK_CONNECTS_PER_SECOND_MAX: '1000000',
    DOWNLINK_WRONG_CREDENTIALS_PER_MINUTE_MAX: '1000000',
    DOWNLINK_CONNECT_SECONDS_MAX: '2',
    DOWNLINK_PACKET_SECONDS_MAX: '2',
  });
  port = portOf(server.live.url);
  token = await server.live.createDevice('framed');
});

afterAll(() => server.close());

async function login(): Promise<RawWebSocket> {
  const client = await RawWebSocket.open(port);
  client.say(connectPacket('framed', token));
  expect(await client.next()).toMatchObject({ cmd: 'connack', returnCode: 0 });
  return client;
}

function reading(metric: string, n: number): Buffer {
  return publishPacket('devices/framed/telemetry', JSON.stringify({ [metric]: n }), { messageId: n });
}

async function readings(metric: string): Promise<unknown[]> {
  const { body } = await server.live.request<{ points: { value: unknown }[] }>(
    'GET',
    `/v1/devices/framed/telemetry?metric=${metric}&limit=1000`,
  );
  return body.points.map(({ value }) => value);
}

describe('a frame that may not be ends the connection with the code for it, and nothing in it counts', () => {
  const payload = reading('forbidden', 1);
  const text = OPCODE.text;
  const faults: [string, number, Frame[]][] = [
    ['unmasked', 1_002, [{ payload, isMasked: false }]],
    ...[1, 2, 4, 7].map((reserved): [string, number, Frame[]] => [`reserved bits ${reserved}`, 1_002, [{ payload, reserved }]]),
    ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((opcode): [string, number, Frame[]] => [
      `reserved opcode ${opcode}`,
      1_002,
      [{ payload, opcode }],
    ]),
    ['a continuation of nothing', 1_002, [{ payload, opcode: OPCODE.continuation }]],
    ['a message within another', 1_002, [{ payload, isFinal: false }, { payload }]],
    ['a ping in fragments', 1_002, [{ opcode: OPCODE.ping, isFinal: false }]],
    ['a close in fragments', 1_002, [{ opcode: OPCODE.close, isFinal: false }]],
    ['a ping of 126 octets', 1_002, [{ opcode: OPCODE.ping, payload: Buffer.alloc(126) }]],
    ['a pong of 64 KiB', 1_002, [{ opcode: OPCODE.pong, payload: Buffer.alloc(64 * KIB) }]],
    ['a ping that claims 2^63', 1_002, [{ opcode: OPCODE.ping, claims: 2n ** 63n }]],
    ['a close of one octet', 1_002, [{ opcode: OPCODE.close, payload: Buffer.from([3]) }]],
    ...[0, 999, 1_004, 1_005, 1_006, 1_015, 2_999, 5_000, 65_535].map((code): [string, number, Frame[]] => [
      `a close with code ${code}`,
      1_002,
      [{ opcode: OPCODE.close, payload: closePayload(code) }],
    ]),
    ['a close whose reason is no UTF-8', 1_007, [{ opcode: OPCODE.close, payload: closePayload(1_000, Buffer.from([0xc0])) }]],
    ['text', 1_003, [{ opcode: text, payload: publishPacket('devices/framed/telemetry', '{"forbidden":2}', { qos: 0 }) }]],
    [
      'text in fragments',
      1_003,
      [
        { opcode: text, isFinal: false },
        { opcode: OPCODE.continuation, payload: PINGREQ.subarray(1) },
      ],
    ],
    ['text that is no UTF-8', 1_007, [{ opcode: text, payload: Buffer.from([0xff, 0xfe]) }]],
    ...[2n ** 63n, 2n ** 64n - 1n, 2n ** 53n, 2n ** 53n - 1n, 2n ** 32n, 2n ** 31n, 2n ** 28n, 2n ** 20n + 6n].map(
      (claims): [string, number, Frame[]] => [`a frame that claims ${claims} octets`, 1_009, [{ claims, payload }]],
    ),
    [
      'a message too large, a fragment at a time',
      1_009,
      [
        { isFinal: false, payload: Buffer.alloc(64 * KIB) },
        ...Array.from({ length: 16 }, () => ({ opcode: 0, isFinal: false, payload: Buffer.alloc(64 * KIB) })),
      ],
    ],
    [
      'a message of 20,000 fragments',
      1_008,
      [{ isFinal: false }, ...Array.from({ length: 20_000 }, () => ({ opcode: 0, isFinal: false }))],
    ],
  ];

  test('of each kind', { timeout: 120_000 }, async () => {
    const ends = await server.withstands('frames that may not be', async () => {
      const found: [string, number | undefined][] = [];
      for (const [name, , frames] of faults) {
        const client = await login();
        client.send(...frames.map(frame));
        // Behind it, in vain.
        client.say(reading('forbidden', 3));
        await client.closed;
        found.push([name, client.closeCode]);
      }
      return found;
    });
    expect(ends).toEqual(faults.map(([name, code]) => [name, code]));
    expect(await readings('forbidden')).toEqual([]);
  });

  test('also where the client does not let go: after text nothing more is heard', async () => {
    await server.withstands('text, and on', async () => {
      const client = await login();
      client.send(frame({ opcode: text }));
      for (let n = 1; !client.isClosed && n < 50; n += 1) {
        client.say(reading('after_text', n));
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      expect(client.isClosed).toBe(true);
    });
    expect(await readings('after_text')).toEqual([]);
  });

  test('a close is answered with its code, and is the end', async () => {
    await server.withstands('closes', async () => {
      for (const code of [1_000, 1_001, 1_011, 3_000, 4_999]) {
        const client = await login();
        client.send(frame({ opcode: OPCODE.close, payload: closePayload(code, Buffer.from('bye')) }));
        client.say(reading('after_close', 1));
        await client.closed;
        expect(client.closeCode).toBe(code);
      }
    });
    expect(await readings('after_close')).toEqual([]);
  });
});

describe('packets and frames have nothing to do with each other', () => {
  test('a packet cut in two at every place, by messages and by fragments, is taken once', async () => {
    await server.withstands('packets over frames', async () => {
      const client = await login();
      let n = 0;
      const { length } = reading('cut', 100);
      for (let at = 1; at < length; at += 1) {
        n += 1;
        const octets = reading('cut', n);
        const [first, last] = [octets.subarray(0, at), octets.subarray(at)];
        if (at % 2 === 0) client.send(frame({ payload: first }), frame({ payload: last }));
        else {
          const ping = frame({ opcode: OPCODE.ping, payload: Buffer.from('between') });
          client.send(frame({ payload: first, isFinal: false }), ping, frame({ opcode: 0, payload: last }));
        }
        expect(await client.next()).toMatchObject({ cmd: 'puback', messageId: n });
      }
      client.end();
      expect(await readings('cut')).toEqual(Array.from({ length: n }, (_, i) => i + 1));
    });
  });

  test('octet by octet, many in one, empty ones between, and lengths written longer than need be', async () => {
    await server.withstands('packets and frames', async () => {
      const client = await login();
      const empty = frame({});
      for (const octet of reading('odd', 1)) client.send(empty, frame({ payload: Buffer.from([octet]) }));
      const many = Array.from({ length: 200 }, (_, i) => reading('odd', i + 2));
      const one = Buffer.concat(many);
      client.send(frame({ payload: one.subarray(0, one.length - 3) }), frame({ payload: one.subarray(one.length - 3) }));
      client.send(frame({ payload: reading('odd', 202), lengthOctets: 9 }));
      const acknowledged: unknown[] = [];
      while (acknowledged.length < 202) acknowledged.push(((await client.next()) as { messageId?: number }).messageId);
      expect(acknowledged).toEqual(Array.from({ length: 202 }, (_, i) => i + 1));
      client.end();
      expect(await readings('odd')).toEqual(acknowledged);
    });
  });
});

describe('floods', () => {
  test.each([
    ['pings', frame({ opcode: OPCODE.ping, payload: Buffer.alloc(125) })],
    ['pongs', frame({ opcode: OPCODE.pong })],
    ['empty messages', frame({})],
  ])('of %s', async (name, octets) => {
    await server.withstands(`flood of ${name}`, async () => {
      const client = await login();
      const many = Buffer.concat(Array.from({ length: 1_000 }, () => octets));
      for (let n = 0; n < 200 && !client.isClosed; n += 1) {
        if (client.send(many)) continue;
        await Promise.race([client.closed, new Promise((resolve) => client.socket.once('drain', resolve))]);
      }
      client.say({ cmd: 'pingreq' });
      expect((await client.next())?.cmd).toBeOneOf(['pingresp', undefined]);
      client.end();
    });
  });

  test('of pings whose pongs are never read', async () => {
    await server.withstands('pongs never read', async () => {
      const clients = await Promise.all(Array.from({ length: 20 }, login));
      const many = Buffer.concat(Array.from({ length: 500 }, () => frame({ opcode: OPCODE.ping, payload: Buffer.alloc(125) })));
      for (const client of clients) client.socket.pause();
      for (let n = 0; n < 40; n += 1) {
        for (const client of clients) client.send(many);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      for (const client of clients) client.end();
    });
  });

  test('of upgrades that say nothing then, or half a frame, or half a packet: all end', { timeout: 60_000 }, async () => {
    await server.withstands('500 silent upgrades', async () => {
      const clients = await Promise.all(Array.from({ length: 500 }, () => RawWebSocket.open(port)));
      for (const [i, client] of clients.entries()) {
        if (i % 3 === 1) client.send(frame({ payload: connectPacket('framed', token) }).subarray(0, 1 + (i % 20)));
        if (i % 3 === 2) client.say(connectPacket('framed', token).subarray(0, 1 + (i % 20)));
      }
      await Promise.all(clients.map(({ closed }) => closed));
    });
  });
});

test('an upgrade that is none is refused, and deflate is not agreed to', async () => {
  const nonsense: [string, string, number][] = [
    ['no key', UPGRADE_REQUEST.replace(/Sec-WebSocket-Key.*\r\n/, ''), 400],
    ['a short key', UPGRADE_REQUEST.replace(/Key: .*\r\n/, 'Key: AAAA\r\n'), 400],
    ['version 12', UPGRADE_REQUEST.replace('Version: 13', 'Version: 12'), 400],
    ['another protocol alone', UPGRADE_REQUEST.replace('Upgrade: websocket', 'Upgrade: h2c'), 400],
    ['POST', UPGRADE_REQUEST.replace('GET', 'POST'), 405],
    ['another path', UPGRADE_REQUEST.replace('/mqtt', '/mqtt/../mqtt'), 404],
    ['protocols that are none', UPGRADE_REQUEST.replace('Protocol: mqtt', 'Protocol: ,,"'), 400],
    ['a protocol twice', UPGRADE_REQUEST.replace('Protocol: mqtt', 'Protocol: mqtt, mqtt'), 400],
  ];
  await server.withstands('upgrades that are none', async () => {
    const answers = [];
    for (const [name, request] of nonsense) {
      const [answer] = await rawHttp(port, request);
      answers.push([name, answer?.status]);
    }
    expect(answers).toEqual(nonsense.map(([name, , status]) => [name, status]));
    const client = await RawWebSocket.open(
      port,
      UPGRADE_REQUEST.replace('\r\n\r\n', '\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n'),
    );
    // RSV1 would say that it is compressed.
    client.send(frame({ reserved: 4, payload: connectPacket('framed', token) }));
    await client.closed;
    expect(client.closeCode).toBe(1_002);
  });
});

test('a client that does not let go after its upgrade was refused is let go of', async () => {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('error', () => {});
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.write(UPGRADE_REQUEST.replace('/mqtt', '/another'));
  socket.resume();
  await once(socket, 'end');
  // Writing tells whether anybody is there.
  const asking = setInterval(() => socket.write('x'), 10);
  await closed;
  clearInterval(asking);
});

const octets = (max: number): fc.Arbitrary<Buffer> => fc.uint8Array({ maxLength: max }).map((some) => Buffer.from(some));
const oftenTrue = fc.nat(9).map((n) => n > 0);
const claim = fc.option(fc.oneof(fc.bigInt(0n, 300n), fc.bigInt(0n, 2n ** 64n - 1n), fc.constant(2n ** 63n)), {
  nil: undefined,
  freq: 8,
});

/** Frames that carry what MQTT clients say, well or badly, with a lie in some of them. */
function frames(said: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> {
  const any = fc.record({
    opcode: fc.oneof({ weight: 5, arbitrary: fc.constant(2) }, { weight: 2, arbitrary: fc.nat(15) }),
    payload: said,
    isFinal: oftenTrue,
    reserved: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(7) }),
    isMasked: oftenTrue,
    claims: claim,
    lengthOctets: fc.constantFrom(undefined, undefined, undefined, 1 as const, 3 as const, 9 as const),
  });
  const whole = any.map(({ claims, lengthOctets, ...more }) =>
    frame({ ...more, ...(claims !== undefined && { claims }), ...(lengthOctets !== undefined && { lengthOctets }) }),
  );
  const broken = fc.tuple(whole, fc.nat(40), octets(8)).map(([one, at, more]) => Buffer.concat([one.subarray(0, at), more]));
  return fc.oneof({ weight: 5, arbitrary: whole }, { weight: 1, arbitrary: broken }, { weight: 1, arbitrary: octets(64) });
}

test('frames of all kinds, broken or not, are answered or end the connection', { timeout: RUN_MS_MAX }, async () => {
  process.stdout.write(`seed ${SEED}: FUZZ_SEED=${SEED} repeats it\n`);
  const said = fc.oneof(
    conversation({ id: 'framed', token }).map((packets) => Buffer.concat(packets)),
    octets(200),
  );
  const talk = async (sent: Buffer[], isLoggedIn: boolean): Promise<void> => {
    const client = await RawWebSocket.open(port);
    if (isLoggedIn) client.say(connectPacket('framed', token));
    client.send(...sent);
    client.socket.end();
    const inTime = await Promise.race([
      client.closed.then(() => true),
      new Promise<false>((resolve) => setTimeout(() => resolve(false), ANSWER_MS_MAX).unref()),
    ]);
    client.end();
    if (!inTime) throw new Error('neither answered nor closed');
  };
  await server.withstands(`${WEBSOCKETS} WebSockets of broken frames`, () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.array(frames(said), { minLength: 1, maxLength: 6 }), fc.boolean()), {
          minLength: AT_ONCE,
          maxLength: AT_ONCE,
        }),
        async (talks) => {
          await Promise.all(talks.map(([sent, isLoggedIn]) => talk(sent, isLoggedIn)));
          expect(server.process.isRunning).toBe(true);
        },
      ),
      { numRuns: Math.ceil(WEBSOCKETS / AT_ONCE), seed: SEED, endOnFailure: true },
    ),
  );
  const client = await login();
  expect(await client.untilPong()).toEqual([] satisfies Packet[]);
  client.end();
});
