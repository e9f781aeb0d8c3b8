import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { connect, type TLSSocket } from 'node:tls';
import { X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deviceOfCertificate } from '../broker/tls/client-certificate.ts';
import { PushClient } from '../simulators/client/push-client.ts';
import { ADMIN_KEY } from './live-server.ts';
import { Authority, type Issued } from './tls-authority.ts';
import { TlsServer, type Shown } from './tls-server.ts';

/** Mutual TLS: what a device has to show, and what becomes of what it shows. */
let authority: Authority;

beforeAll(async () => {
  authority = await Authority.make();
});

describe('the device that a certificate names', () => {
  const named = async (...[id, wanted]: Parameters<Authority['device']>) =>
    deviceOfCertificate(new X509Certificate((await authority.device(id, wanted)).cert));
  const uri = (value: string) => ({ type: 'url' as const, value });

  test('is the one of its URI, else of its common name', async () => {
    expect(await named('pump')).toEqual({ deviceId: 'pump' });
    expect(await named('other', { names: [uri('urn:downlink:device:pump')] })).toEqual({ deviceId: 'pump' });
    expect(await named('pump', { names: [uri('https://example.com/x')] })).toEqual({ deviceId: 'pump' });
    expect(await named('', { subject: 'O=Pumps', names: [uri('urn:downlink:device:pump')] })).toEqual({ deviceId: 'pump' });
  });

  test('is none where it names none, several, or by what is no id', async () => {
    expect((await named('', { subject: 'O=Pumps' })).problem).toMatch('neither a URI');
    expect((await named('', { subject: 'CN=a, CN=b' })).problem).toMatch('more than one');
    expect((await named('a', { names: [uri('urn:downlink:device:a'), uri('urn:downlink:device:b')] })).problem).toMatch(
      'more than one',
    );
    expect((await named('a b')).problem).toMatch('no device id');
    expect((await named('a', { names: [uri('urn:downlink:device:')] })).problem).toMatch('no device id');
  });

  test('cannot be smuggled in by a name of another kind', async () => {
    const names = [{ type: 'dns' as const, value: 'x, URI:urn:downlink:device:admin' }];
    expect(await named('pump', { names })).toEqual({ deviceId: 'pump' });
  });
});

/** `true`, or the return code of CONNACK, or what ended the connection. */
async function mqttOutcome(server: TlsServer, id: string, options: Parameters<TlsServer['connect']>[1]): Promise<unknown> {
  try {
    const device = await server.connect(id, options);
    await device.publish('telemetry', { a: 1 });
    await device.end();
    return true;
  } catch (error) {
    return (error as { code?: unknown }).code ?? (error as Error).message;
  }
}

/** Status, and the message of a refusal. */
async function httpOutcome(server: TlsServer, shown: Shown, token?: string): Promise<string> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return server.request('/v1/device/commands', { ...shown, headers }).then(
    ({ status, body }) => (status === 401 ? (JSON.parse(body) as { detail: string }).detail : String(status)),
    (error: NodeJS.ErrnoException) => error.code ?? error.message,
  );
}

describe.each(['either', 'token', 'certificate', 'both'] as const)('with DOWNLINK_DEVICE_AUTH=%s', (deviceAuth) => {
  let server: TlsServer;
  let token: string;
  let own: Issued;
  let others: Issued;
  let unregistered: Issued;
  let foreign: Issued;
  let expired: Issued;

  beforeAll(async () => {
    server = await TlsServer.start({ deviceAuth });
    token = await server.live.createDevice('pump');
    await server.live.createDevice('tank');
    own = await server.deviceAuthority.device('pump');
    others = await server.deviceAuthority.device('tank');
    unregistered = await server.deviceAuthority.device('nobody');
    foreign = await (await Authority.make('Devices CA')).device('pump');
    expired = await server.deviceAuthority.device('pump', { days: -1 });
  });

  afterAll(() => server.close());

  const withToken = (id: string) => ({ username: id, password: token });
  const isNeeded = deviceAuth === 'certificate' || deviceAuth === 'both';

  test('a certificate alone', async () => {
    const isEnough = deviceAuth === 'either' || deviceAuth === 'certificate';
    expect(await mqttOutcome(server, 'pump', own)).toBe(isEnough || 4);
    expect(await mqttOutcome(server, 'pump', { ...own, username: 'pump' })).toBe(isEnough || 4);
    expect(await httpOutcome(server, own)).toMatch(
      { either: /^204$/, certificate: /^204$/, token: /send Authorization/, both: /the token of pump is needed/ }[deviceAuth],
    );
  });

  test('a token alone', async () => {
    expect(await mqttOutcome(server, 'pump', withToken('pump'))).toBe(!isNeeded || 4);
    expect(await httpOutcome(server, {}, token)).toMatch(isNeeded ? /by its client certificate/ : /^204$/);
    const plain = await server.live.request('GET', '/v1/device/commands', { credential: token }).catch(() => undefined);
    expect(plain?.status ?? 204).toBe(isNeeded ? 401 : 204);
  });

  test('both', async () => {
    expect(await mqttOutcome(server, 'pump', { ...own, ...withToken('pump') })).toBe(true);
    expect(await httpOutcome(server, own, token)).toBe('204');
    // Without a certificate being asked for, the token is all there is.
    const isTold = deviceAuth !== 'token';
    expect(await mqttOutcome(server, 'pump', { ...others, ...withToken('pump') })).toBe(isTold ? 4 : true);
    expect(await httpOutcome(server, others, token)).toMatch(isTold ? /is of tank, the token of another/ : /^204$/);
  });

  test('a certificate of one device does not connect another, nor one that is not registered', async () => {
    expect(await mqttOutcome(server, 'tank', { ...own, username: 'tank' })).toBe(
      deviceAuth === 'either' || deviceAuth === 'certificate' ? 2 : 4,
    );
    expect(await mqttOutcome(server, 'nobody', unregistered)).toBe(4);
    if (deviceAuth === 'either' || deviceAuth === 'certificate') {
      expect(await httpOutcome(server, unregistered)).toMatch('names nobody, and no such device is registered');
    }
  });

  test.each(['foreign', 'expired'] as const)('a certificate that is %s', async (kind) => {
    const shown = { foreign, expired }[kind];
    if (isNeeded) {
      // The handshake of TLS 1.3 is over for the client before the server has seen its certificate.
      expect(await mqttOutcome(server, 'pump', { ...shown, ...withToken('pump') })).not.toBe(true);
      expect(await httpOutcome(server, shown, token)).toMatch(/ECONNRESET|EPIPE|hang up/);
    } else {
      expect(await mqttOutcome(server, 'pump', shown)).toBe(4);
      expect(await mqttOutcome(server, 'pump', { ...shown, ...withToken('pump') })).toBe(true);
      expect(await httpOutcome(server, shown)).toMatch(deviceAuth === 'token' ? /send Authorization/ : /is not accepted/);
    }
  });

  test('an operator needs no certificate', async () => {
    const headers = { authorization: `Bearer ${ADMIN_KEY}` };
    expect((await server.request('/v1/devices', { headers })).status).toBe(200);
  });

  test('a certificate does not open what is for operators, and no header stands for one', async () => {
    expect((await server.request('/v1/devices', own)).status).toBe(401);
    const cert = encodeURIComponent(own.cert);
    const headers = { 'x-client-cert': cert, 'x-ssl-client-s-dn': 'CN=pump', 'x-forwarded-client-cert': `Cert="${cert}"` };
    expect((await server.request('/v1/device/commands', { headers })).status).toBe(401);
  });
});

describe('a certificate', () => {
  let server: TlsServer;

  beforeAll(async () => {
    server = await TlsServer.start({ hasCrl: true });
  });

  afterAll(() => server.close());

  test('that is revoked ends its connections of every kind, and opens no more, resumed sessions included', async () => {
    await server.live.createDevice('pump');
    await server.live.createDevice('tank');
    const shown = await server.deviceAuthority.device('pump');
    const device = await server.connect('pump', shown);
    const bystander = await server.connect('tank', await server.deviceAuthority.device('tank'));
    const overWss = await server.connect('pump2', {
      ...shown,
      clientId: 'pump',
      protocol: 'wss',
      port: server.httpsPort,
      path: '/mqtt',
    });
    const session = connectHttp2(`https://localhost:${server.httpsPort}`, { ca: server.authority.pem, ...shown });
    session.on('error', () => {});
    const poll = session.request({ ':path': '/v1/device/commands?wait=60' });
    poll.on('error', () => {});
    const socket: TLSSocket = connect({ host: 'localhost', port: server.mqttsPort, ca: server.authority.pem, ...shown });
    const [ticket] = (await once(socket, 'session')) as [Buffer];
    while ((await server.metric('downlink_parked_polls')) === 0);

    const gone = [device.closed(), overWss.closed(), once(session, 'close'), once(socket, 'close')];
    await server.replace('crl.pem', await server.deviceAuthority.revoke([shown]));
    await Promise.all(gone);
    expect(await server.metric('downlink_tls_revoked_connections_total')).toBeGreaterThanOrEqual(3);
    await bystander.publish('telemetry', { a: 1 });

    expect(await mqttOutcome(server, 'pump', shown)).toBe(4);
    expect(await httpOutcome(server, shown)).toMatch('cert revoked');
    expect(await mqttOutcome(server, 'pump', { ...shown, session: ticket } as object)).toBe(4);
    await bystander.end();
  });

  test('does not let a device in that was shut out', async () => {
    await server.live.createDevice('shut');
    const shown = await server.deviceAuthority.device('shut');
    expect(await httpOutcome(server, shown)).toBe('204');
    expect((await server.live.request('DELETE', '/v1/devices/shut/token')).status).toBeLessThan(300);
    expect(await httpOutcome(server, shown)).toMatch('shut was shut out');
    expect(await mqttOutcome(server, 'shut', shown)).toBe(4);
  });

  test('is not accepted while the revocation list has ended', async () => {
    await server.live.createDevice('late');
    const shown = await server.deviceAuthority.device('late');
    expect(await httpOutcome(server, shown)).toBe('204');
    const reloads = await server.metric('downlink_tls_reloads_total{outcome="taken"}');
    await server.replace('crl.pem', await server.deviceAuthority.revoke([], -1));
    await server.reloaded(reloads + 1);
    expect(await httpOutcome(server, shown)).toMatch('crl has expired');
  });
});

test('the device client comes in by its certificate alone', async () => {
  const server = await TlsServer.start();
  await server.live.createDevice('pump');
  const { cert, key } = await server.deviceAuthority.device('pump');
  const client = new PushClient({
    url: `mqtts://localhost:${server.mqttsPort}`,
    deviceId: 'pump',
    token: '',
    mqtt: { ca: server.authority.pem, cert, key },
  });
  await client.start();
  expect(await client.telemetry({ pressure: 2.1 })).toBe('stored');
  await client.stop();
  await server.close();
});
