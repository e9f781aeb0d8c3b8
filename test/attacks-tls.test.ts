import { randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { AttackedTls } from './attacks/attacked-tls.ts';
import { connectPacket } from './attacks/raw-mqtt.ts';
import type { AttackedServer } from './healthy-device.ts';

/** Attacks on the ports that speak TLS. FUZZ_TLS sets how many handshakes are broken ones, FUZZ_SEED repeats a run. */
const CONNECTIONS = Number(process.env['FUZZ_TLS'] ?? 600);
const SEED = Number(process.env['FUZZ_SEED'] ?? randomInt(2 ** 31));
const AT_ONCE = 10;
const PORTS = ['mqttsPort', 'httpsPort'] as const;

let attacked: AttackedTls;
let server: AttackedServer;
let ca: string;

beforeAll(async () => {
  attacked = await AttackedTls.start();
  ({ server, ca } = attacked);
});

afterAll(() => attacked.close());

function open(port: number): Socket {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  socket.on('error', () => {});
  socket.resume();
  return socket;
}

async function closed(socket: {
  readonly destroyed: boolean;
  once(event: 'close', listener: () => void): unknown;
}): Promise<void> {
  if (!socket.destroyed) await new Promise<void>((resolve) => socket.once('close', resolve));
}

/** What a client says first, without anybody to say it to. */
async function clientHello(options: ConnectionOptions = {}): Promise<Buffer> {
  let said: Buffer = Buffer.alloc(0);
  const nobody = new Duplex({
    read: () => {},
    write: (chunk: Buffer, _, done) => {
      said = Buffer.concat([said, chunk]);
      nobody.emit('said');
      done();
    },
  });
  const heard = once(nobody, 'said');
  const socket = connectTls({ socket: nobody, servername: 'localhost', ...options });
  socket.on('error', () => {});
  await heard;
  socket.destroy();
  return said;
}

describe('before the handshake', () => {
  test('what is no TLS is closed at once, on both ports', async () => {
    const hello = await clientHello();
    const changed = (at: number, ...octets: number[]): Buffer => {
      const copy = Buffer.from(hello);
      copy.set(octets, at);
      return copy;
    };
    const nonsense = [
      Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      connectPacket('healthy', 'x'.repeat(100)),
      Buffer.alloc(100_000),
      Buffer.alloc(1_000, 0xff),
      Buffer.concat([Buffer.from([0x80, 0x2e, 1, 3, 0]), randomBytes(200)]),
      // SSL 2.0 and 3.0, and versions that never were.
      changed(1, 2, 0),
      changed(9, 3, 0),
      changed(1, 0, 0),
      changed(1, 255, 255),
      // Record types: an alert, application data, one that is none.
      changed(0, 0x15),
      changed(0, 0x17),
      changed(0, 0x63),
      // Lengths: of the record, of the message, of the session id.
      changed(3, 0xff, 0xff),
      changed(6, 0xff, 0xff, 0xff),
      changed(43, 0xff),
      // No cipher at all.
      Buffer.concat([hello.subarray(0, 76), Buffer.from([0, 0]), hello.subarray(78)]),
    ];
    await server.withstands('no TLS', async () => {
      const sockets = PORTS.flatMap((port) =>
        nonsense.map((octets) => {
          const socket = open(server.live[port]);
          socket.write(octets);
          // A record that says it is longer than it is.
          socket.write(Buffer.alloc(70_000));
          return socket;
        }),
      );
      await Promise.all(sockets.map(closed));
    });
  });

  test('600 handshakes that stop half-way end when their time is up', { timeout: 60_000 }, async () => {
    const hello = await clientHello();
    await server.withstands('600 half handshakes', async () => {
      const sockets = Array.from({ length: 600 }, (_, i) => {
        const socket = open(server.live[PORTS[i % 2] ?? 'httpsPort']);
        if (i % 3 === 1) socket.write(hello);
        if (i % 3 === 2) socket.write(hello.subarray(0, 1 + (i % hello.length)));
        return socket;
      });
      // Some are never quite silent.
      const drip = setInterval(() => {
        for (const [i, socket] of sockets.entries()) if (i % 30 === 0 && socket.writable) socket.write(Buffer.from([0x16]));
      }, 500);
      await Promise.all(sockets.map(closed));
      clearInterval(drip);
    });
  });

  test('old versions, weak ciphers and application protocols that are none are refused, over and over', async () => {
    const lenient = 'ALL:@SECLEVEL=0';
    const asked: ConnectionOptions[] = [
      { minVersion: 'TLSv1', maxVersion: 'TLSv1', ciphers: lenient },
      { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: lenient },
      { maxVersion: 'TLSv1.2', ciphers: 'aNULL:@SECLEVEL=0' },
      { ALPNProtocols: ['h3'] },
      { ALPNProtocols: ['x'.repeat(255)] },
      { ALPNProtocols: Array.from({ length: 200 }, (_, i) => `none-${i}`) },
      { ALPNProtocols: ['h2\n', 'H2', 'http/1.1 ', ' mqtt'] },
    ];
    await server.withstands('handshakes that are refused', async () => {
      for (let n = 0; n < 20; n += 1) {
        const outcomes = asked.flatMap((options) => PORTS.map((port) => handshake(server.live[port], options)));
        expect(await Promise.all(outcomes)).toEqual(outcomes.map(() => 'refused'));
      }
    });
  });
});

async function handshake(port: number, options: ConnectionOptions): Promise<'agreed' | 'refused'> {
  const socket = connectTls({ host: '127.0.0.1', servername: 'localhost', port, ca, ...options });
  const outcome = await once(socket, 'secureConnect').then(
    () => 'agreed' as const,
    () => 'refused' as const,
  );
  socket.destroy();
  return outcome;
}

describe('after the handshake', () => {
  async function secure(port: number, options: ConnectionOptions = {}): Promise<{ plain: Socket; socket: TLSSocket }> {
    const plain = open(port);
    const socket = connectTls({ socket: plain, servername: 'localhost', ca, ...options });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    return { plain, socket };
  }

  test('records that were tampered with end the connection', async () => {
    await server.withstands('records tampered with', async () => {
      for (const port of PORTS) {
        for (const type of [0x14, 0x15, 0x16, 0x17, 0x18, 0xff]) {
          const { plain } = await secure(server.live[port]);
          plain.write(Buffer.concat([Buffer.from([type, 3, 3, 0, 40]), randomBytes(40)]));
          await closed(plain);
        }
      }
    });
  });

  test('a client that negotiates anew again and again is closed each time', async () => {
    await server.withstands('renegotiation', async () => {
      const sockets = PORTS.flatMap((port) =>
        Array.from({ length: 30 }, async () => {
          const { socket } = await secure(server.live[port], { maxVersion: 'TLSv1.2' });
          socket.renegotiate({}, () => {});
          await closed(socket);
        }),
      );
      await Promise.all(sockets);
    });
  });
});

test('a ClientHello that is broken anywhere ends its connection', async () => {
  process.stdout.write(`seed ${SEED}: FUZZ_SEED=${SEED} repeats it\n`);
  const hello = await clientHello();
  const broken = fc
    .tuple(fc.array(fc.tuple(fc.nat(hello.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }), fc.boolean())
    .map(([changes, isCut]) => {
      const octets = Buffer.from(hello);
      for (const [at, value] of changes) octets[at] = value;
      return isCut ? octets.subarray(0, changes[0]?.[0]) : octets;
    });
  await server.withstands(`${CONNECTIONS} broken handshakes`, () =>
    fc.assert(
      fc.asyncProperty(fc.array(broken, { minLength: AT_ONCE, maxLength: AT_ONCE }), async (hellos) => {
        const sockets = hellos.map((octets, i) => {
          const socket = open(server.live[PORTS[i % 2] ?? 'httpsPort']);
          socket.end(octets);
          return socket;
        });
        await Promise.all(sockets.map(closed));
        expect(server.process.isRunning).toBe(true);
      }),
      { numRuns: Math.ceil(CONNECTIONS / AT_ONCE), seed: SEED, endOnFailure: true },
    ),
  );
});
