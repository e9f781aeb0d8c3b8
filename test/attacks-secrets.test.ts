import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newSecret, SecretDigests } from '../broker/registry/secrets.ts';
import { connectPacket, publishPacket, RawMqtt, subscribePacket } from './attacks/raw-mqtt.ts';
import { keyFor } from './api-support.ts';
import { AttackedServer, logLines } from './healthy-device.ts';
import { ADMIN_KEY } from './live-server.ts';

/** What must not be seen: secrets in the log, and how a secret is compared. */
let server: AttackedServer;

beforeAll(async () => {
  server = await AttackedServer.start({}, { logLevel: 'trace' });
});

afterAll(() => server.close());

test('the log of a busy day, at its most talkative, holds no token, key, credential or payload', async () => {
  const { live } = server;
  const secrets: string[] = [ADMIN_KEY, 'Bearer', 'Basic ', 'payload-marker', 'wrong-secret'];
  await server.withstands('a busy day', async () => {
    const operator = await keyFor(live, 'operator');
    const fleet = await live.request<{ secret: string }>('POST', '/v1/fleet-keys', { body: { name: 'line', quota: 10 } });
    secrets.push(operator.secret, fleet.body.secret);
    for (let n = 0; n < 10; n += 1) {
      const id = `busy-${n}`;
      const made = await live.request<{ token: string }>('POST', '/v1/provision', {
        body: { id },
        credential: fleet.body.secret,
      });
      const token = made.status === 201 ? made.body.token : await live.createDevice(id);
      secrets.push(token, Buffer.from(`${id}:${token}`).toString('base64'));
      const basic = `Basic ${Buffer.from(`${id}:${token}`).toString('base64')}`;
      await live.request('GET', '/v1/device/commands', { headers: { authorization: basic } });
      await live.request('GET', `/v1/devices?token=${token}`, { credential: operator.secret });
      await live.request('GET', `/nowhere/${token}?key=${operator.secret}`, { credential: `wrong-secret-${n}` });
      await live.request('POST', '/v1/device/telemetry', { credential: token, body: { text: 'payload-marker' } });
      await live.request('POST', '/v1/device/telemetry', { credential: token, body: '{"payload-marker' });
      await live.request('POST', `/v1/devices/${id}/commands`, {
        credential: operator.secret,
        body: { name: 'x', params: 'payload-marker' },
      });
      const client = await RawMqtt.login(live.mqttPort, id, token);
      client.send(subscribePacket([`devices/${id}/commands`, 'payload-marker/#']));
      client.send(publishPacket(`devices/${id}/telemetry`, '{"text":"payload-marker"}', { messageId: 2 }));
      client.send(publishPacket(`devices/${id}/telemetry`, 'payload-marker', { messageId: 3 }));
      await client.untilPong();
      client.send(Buffer.from('ffffffffffffff', 'hex'));
      await client.closed;
      const stranger = await RawMqtt.open(live.mqttPort);
      stranger.send(connectPacket(id, 'wrong-secret'));
      await stranger.closed;
      await live.request('DELETE', `/v1/devices/${id}`);
    }
  });
  const lines = logLines(server.process.printed);
  expect(lines.length).toBeGreaterThan(10);
  for (const secret of secrets)
    expect(
      lines.filter((line) => line.includes(secret)),
      secret.slice(0, 8),
    ).toEqual([]);
});

test('no key or token that is in use lies readable in the data folder', async () => {
  const token = await server.live.createDevice('kept');
  const { secret } = await keyFor(server.live, 'viewer');
  await server.live.stop();
  for (const entry of await readdir(server.live.dataDir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const octets = await readFile(join(entry.parentPath, entry.name));
    for (const shown of [token, secret, ADMIN_KEY]) expect(octets.includes(shown), entry.name).toBe(false);
  }
});

test('whoever compares secrets compares digests, in constant time', async () => {
  const kept = new Map<string, string>();
  const state = {
    get: async (key: string) => kept.get(key),
    commit: async (changes: { put: string; value: string }[]) => {
      for (const { put, value } of changes) kept.set(put, value);
    },
  };
  const digests = await SecretDigests.open(state as never);
  const token = newSecret('dld_');
  const digest = digests.digest(token);
  expect(digest).not.toContain(token);
  expect(digest).toHaveLength(43);
  expect(digests.matches(token, digest)).toBe(true);
  // A secret's digest says nothing of how near a guess is: no two digests share their beginning.
  const near = `${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'A'}`;
  expect(digests.matches(near, digest)).toBe(false);
  expect(digests.digest(near).slice(0, 8)).not.toBe(digest.slice(0, 8));
  for (const wrong of ['', token.slice(0, 10), `${token}x`, digest]) expect(digests.matches(wrong, digest)).toBe(false);
});
