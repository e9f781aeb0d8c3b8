import { randomInt } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { conversation } from './attacks/mutations.ts';
import { connectPacket, PINGREQ, RawMqtt } from './attacks/raw-mqtt.ts';
import { AttackedServer } from './healthy-device.ts';

/**
 * Packets that are malformed, cut short or changed. FUZZ_CONVERSATIONS sets how many connections say some (about three packets each), FUZZ_SEED
 * repeats a run.
 */
const CONVERSATIONS = Number(process.env['FUZZ_CONVERSATIONS'] ?? 6_000);
const SEED = Number(process.env['FUZZ_SEED'] ?? randomInt(2 ** 31));
const AT_ONCE = 10;
const ANSWER_MS_MAX = 20_000;
const RUN_MS_MAX = 60_000 + CONVERSATIONS * 100;

let server: AttackedServer;
let token: string;

beforeAll(async () => {
  // Others' tests are of these.
  server = await AttackedServer.start({
    DOWNLINK_CONNECTS_PER_SECOND_MAX: '1000000',
    DOWNLINK_WRONG_CREDENTIALS_PER_MINUTE_MAX: '1000000',
  });
  token = await server.live.createDevice('fuzzed');
});

afterAll(() => server.close());

test('are answered or end the connection, before and after CONNECT', { timeout: RUN_MS_MAX }, async () => {
  process.stdout.write(`seed ${SEED}: FUZZ_SEED=${SEED} repeats it\n`);
  let packets = 0;
  let ended = 0;
  const talk = async (said: Buffer[], isLoggedIn: boolean, inPieces: boolean): Promise<void> => {
    const client = await RawMqtt.open(server.mqttPort);
    packets += said.length;
    const octets = Buffer.concat([...(isLoggedIn ? [connectPacket('fuzzed', token)] : []), ...said]);
    if (inPieces) {
      const half = octets.length >> 1;
      client.send(octets.subarray(0, half));
      await new Promise((resolve) => setImmediate(resolve));
      client.send(octets.subarray(half));
    } else client.send(octets);
    // More than any packet above says it is long, so that none is left waiting for its end.
    client.send(Buffer.concat(Array.from({ length: 300 }, () => PINGREQ)));
    client.socket.end();
    const inTime = await Promise.race([
      client.closed.then(() => true),
      new Promise<false>((resolve) => setTimeout(() => resolve(false), ANSWER_MS_MAX).unref()),
    ]);
    if (inTime) ended += 1;
    client.end();
    if (!inTime) throw new Error('neither answered nor closed');
  };
  await server.withstands(`${CONVERSATIONS} conversations of broken packets`, () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(conversation({ id: 'fuzzed', token }), fc.boolean(), fc.boolean()), {
          minLength: AT_ONCE,
          maxLength: AT_ONCE,
        }),
        async (talks) => {
          await Promise.all(talks.map(([said, isLoggedIn, inPieces]) => talk(said, isLoggedIn, inPieces)));
          expect(server.process.isRunning).toBe(true);
        },
      ),
      { numRuns: Math.ceil(CONVERSATIONS / AT_ONCE), seed: SEED, endOnFailure: true },
    ),
  );
  process.stdout.write(`${packets} packets over ${ended} connections\n`);
});

test('leave the device that said them as it was: its next connection works', async () => {
  const client = await RawMqtt.login(server.mqttPort, 'fuzzed', token);
  expect(await client.untilPong()).toEqual([]);
  client.end();
  const { body } = await server.live.request<{ devices: { id: string }[] }>('GET', '/v1/devices');
  expect(body.devices.map(({ id }) => id)).toEqual(['fuzzed', 'healthy']);
});
