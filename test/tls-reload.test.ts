import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { get } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ADMIN_KEY, type MqttDevice } from './live-server.ts';
import { Authority } from './tls-authority.ts';
import { TlsServer } from './tls-server.ts';

/** Certificate files that change while the server runs. */
let server: TlsServer;
let device: MqttDevice;

beforeEach(async () => {
  server = await TlsServer.start({ hasCrl: true });
  const token = await server.live.createDevice('pump');
  device = await server.connect('pump', { username: 'pump', password: token });
});

afterEach(async () => {
  await device.end();
  await server.close();
});

async function servedSerial(): Promise<string> {
  const socket: TLSSocket = connect({ host: 'localhost', port: server.mqttsPort, ca: server.authority.pem });
  await once(socket, 'secureConnect');
  const { serialNumber } = socket.getPeerCertificate();
  socket.destroy();
  return serialNumber.toLowerCase();
}

test('a new certificate is served to who comes next, and nobody who is there is dropped', async () => {
  const request = get({
    ...{ host: 'localhost', port: server.httpsPort, path: '/v1/stream', ca: server.authority.pem },
    headers: { authorization: `Bearer ${ADMIN_KEY}` },
  });
  const [stream] = (await once(request, 'response')) as [IncomingMessage];
  const before = await servedSerial();
  const { cert, key, serialNumber } = await server.authority.server();
  await server.replace('cert.pem', cert);
  await server.replace('key.pem', key);
  await server.reloaded(1);
  expect(await servedSerial()).toBe(serialNumber);
  expect(before).not.toBe(serialNumber);

  let told = '';
  stream.setEncoding('utf8').on('data', (chunk: string) => (told += chunk));
  await device.publish('telemetry', { temperature: 21.5 });
  while (!told.includes('"temperature":21.5')) await once(stream, 'data');
  expect(await server.metric('downlink_tls_reloads_total{outcome="refused"}')).toBe(0);
  stream.destroy();
});

test.each([
  ['cert.pem', async (): Promise<string> => 'no certificate'],
  ['key.pem', async (): Promise<string> => (await server.authority.server()).key],
  ['devices.pem', async (): Promise<string> => ''],
  ['devices.pem', async (): Promise<string> => server.deviceAuthority.pem + (await Authority.make('Without a list')).pem],
  ['crl.pem', async (): Promise<string> => server.authority.revoke([])],
  ['crl.pem', async (): Promise<string> => '-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n'],
] as const)('a %s that cannot be used leaves everything as it was, and is taken when it is mended', async (name, bad) => {
  const before = await servedSerial();
  const good = await readFile(join(server.folder, name), 'utf8');
  await server.replace(name, await bad());
  await server.reloaded(1, 'refused');
  expect(await servedSerial()).toBe(before);
  await device.publish('telemetry', { a: 1 });
  await server.replace(name, good);
  await server.reloaded(1);
  expect(await servedSerial()).toBe(before);
});

test('how long the certificate still lasts is a metric', async () => {
  expect(Math.round(await server.metric('downlink_tls_certificate_days_left'))).toBe(30);
});
