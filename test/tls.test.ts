import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { readConfig } from '../broker/config.ts';
import { Metrics } from '../broker/metrics.ts';
import { Certificates } from '../broker/tls/certificates.ts';
import { TlsMetrics } from '../broker/tls/tls-metrics.ts';
import { TlsPort } from '../broker/tls/tls-port.ts';
import { banner } from '../broker/banner.ts';
import { openOperatorApi } from '../simulators/operator-api.ts';
import { Authority } from './tls-authority.ts';
import { TlsServer } from './tls-server.ts';

let server: TlsServer;

beforeAll(async () => {
  server = await TlsServer.start();
});

afterAll(() => server.close());

/** What the handshake comes to: the protocol and cipher, or the error's code. */
async function handshake(port: number, options: ConnectionOptions): Promise<string> {
  const socket = connect({ host: '127.0.0.1', servername: 'localhost', port, ca: server.authority.pem, ...options });
  try {
    await once(socket, 'secureConnect');
    return `${socket.getProtocol()} ${socket.getCipher().name}`;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'failed';
  } finally {
    socket.destroy();
  }
}

/** So that the test's own client does not refuse what the server has to. */
const LENIENT = 'ALL:@SECLEVEL=0';

describe.each(['mqttsPort', 'httpsPort'] as const)('the TLS port %s', (port) => {
  test('speaks TLS 1.3 and 1.2', async () => {
    expect(await handshake(server[port], {})).toMatch(/^TLSv1\.3 TLS_/);
    expect(await handshake(server[port], { maxVersion: 'TLSv1.2' })).toBe('TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256');
  });

  test.each(['TLSv1', 'TLSv1.1'] as const)('refuses %s', async (version) => {
    expect(await handshake(server[port], { minVersion: version, maxVersion: version, ciphers: LENIENT })).toBe(
      'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION',
    );
  });

  test.each([
    'ECDHE-ECDSA-AES128-SHA256',
    'ECDHE-ECDSA-AES256-SHA',
    'ECDHE-ECDSA-AES128-CCM8',
    'AES128-GCM-SHA256',
    'DHE-RSA-AES128-GCM-SHA256',
    'aNULL',
    'ECDHE-ECDSA-NULL-SHA',
  ])('refuses the cipher %s', async (cipher) => {
    const ciphers = `${cipher}:@SECLEVEL=0`;
    expect(await handshake(server[port], { maxVersion: 'TLSv1.2', ciphers })).toBe('ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE');
  });

  test('chooses the cipher by its own order', async () => {
    const ciphers = 'ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256';
    expect(await handshake(server[port], { maxVersion: 'TLSv1.2', ciphers })).toBe('TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256');
  });

  test('ends a connection whose client negotiates anew', async () => {
    const socket = connect({
      host: '127.0.0.1',
      servername: 'localhost',
      port: server[port],
      ca: server.authority.pem,
      maxVersion: 'TLSv1.2',
    });
    await once(socket, 'secureConnect');
    socket.on('error', () => {});
    socket.renegotiate({}, () => {});
    await once(socket, 'close');
  });
});

test('HTTP/2 is chosen where it is offered, HTTP/1.1 where it is not, and a protocol of neither refused', async () => {
  const chosen = async (port: number, protocols: string[]): Promise<string | false | null> => {
    const socket: TLSSocket = connect({
      host: '127.0.0.1',
      servername: 'localhost',
      port,
      ca: server.authority.pem,
      ALPNProtocols: protocols,
    });
    await once(socket, 'secureConnect');
    socket.destroy();
    return socket.alpnProtocol;
  };
  expect(await chosen(server.httpsPort, ['http/1.1', 'h2'])).toBe('h2');
  expect(await chosen(server.httpsPort, ['http/1.1'])).toBe('http/1.1');
  expect(await chosen(server.mqttsPort, ['mqtt'])).toBe('mqtt');
  await expect(chosen(server.mqttsPort, ['http/1.1'])).rejects.toThrow('no application protocol');
});

test('what is no TLS is closed and counted', async () => {
  const socket = connectTcp(server.httpsPort, '127.0.0.1');
  socket.on('error', () => {});
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  socket.resume();
  await once(socket, 'close');
  expect(await server.metric('downlink_tls_handshakes_failed_total{port="https",reason="not_tls"}')).toBe(1);
});

test('MQTT goes over WebSocket and TLS as well', async () => {
  const token = await server.live.createDevice('wss');
  const device = await server.connect('wss', { username: 'wss', password: token, ...wss() });
  await device.publish('telemetry', { a: 1 });
  await device.end();
});

function wss(): object {
  return { protocol: 'wss', port: server.httpsPort, path: '/mqtt' };
}

test('the bound on connections of an address holds for what speaks TLS', async () => {
  const bounded = await TlsServer.start({ config: { bounds: { ...DEFAULT_BOUNDS, connections_per_address: 3 } } });
  const sockets = Array.from({ length: 6 }, () =>
    connect({ host: '127.0.0.1', port: bounded.httpsPort, ca: bounded.authority.pem }),
  );
  try {
    const outcomes = sockets.map(
      (socket) =>
        new Promise<string>((resolve) => {
          socket.once('secureConnect', () => resolve('open')).on('error', () => {});
          socket.once('close', () => resolve('closed'));
        }),
    );
    expect((await Promise.all(outcomes)).toSorted()).toEqual(['closed', 'closed', 'closed', 'open', 'open', 'open']);
    for (const socket of sockets) socket.destroy();
    await Promise.all(sockets.filter(({ closed }) => !closed).map((socket) => once(socket, 'close')));
    while ((await bounded.request('/healthz').catch(() => undefined))?.status !== 200);
  } finally {
    await bounded.close();
  }
});

test('the plain ports can be off, and the server stops as it does with them', async () => {
  const secure = await TlsServer.start({ config: { mqttPort: 'off', httpPort: 'off' } });
  try {
    expect(secure.live.mqttPort).toBe(0);
    expect((await secure.request('/healthz')).status).toBe(200);
  } finally {
    await secure.close();
  }
});

test('a handshake that trickles in is cut', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'downlink-tls-'));
  const issued = await (await Authority.make()).server();
  await writeFile(join(folder, 'cert.pem'), issued.cert);
  await writeFile(join(folder, 'key.pem'), issued.key);
  const parts = { metrics: new Metrics(), log: pino({ level: 'silent' }), clock: { now: () => Date.now() } };
  const metrics = new TlsMetrics(parts.metrics.registry);
  const files = { cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem'), clientCa: undefined, crl: undefined };
  const certificates = await Certificates.open(files, { ...parts, tlsMetrics: metrics });
  const port = new TlsPort({
    ...{ name: 'mqtts', protocols: ['mqtt'], certificates, deviceAuth: 'either', metrics, log: parts.log },
    handshakeMsMax: 300,
    accept: () => {},
  });
  const socket = connectTcp(await port.listen('127.0.0.1', 0), '127.0.0.1');
  socket.on('error', () => {});
  // The beginning of a ClientHello that says it is 512 octets long.
  const octets = Buffer.from('1603010200010001fc0303', 'hex');
  let sent = 0;
  const drip = setInterval(() => socket.write(octets.subarray(sent, (sent += 1))), 40);
  await once(socket, 'close');
  clearInterval(drip);
  expect((await metrics.handshakeFailures.get()).values).toMatchObject([{ labels: { reason: 'too_slow' }, value: 1 }]);
  port.close();
  certificates.close();
  await rm(folder, { recursive: true });
});

describe('the configuration', () => {
  const CERT = { DOWNLINK_TLS_CERT_FILE: 'a', DOWNLINK_TLS_KEY_FILE: 'b' };

  test.each([
    [{ DOWNLINK_TLS_CERT_FILE: 'a' }, 'DOWNLINK_TLS_KEY_FILE is not'],
    [{ DOWNLINK_TLS_KEY_FILE: 'a' }, 'DOWNLINK_TLS_CERT_FILE is not'],
    [{ DOWNLINK_MQTTS_PORT: '1' }, 'DOWNLINK_MQTTS_PORT is set but'],
    [{ ...CERT, DOWNLINK_TLS_CRL_FILE: 'c' }, 'DOWNLINK_TLS_CLIENT_CA_FILE is not'],
    [{ ...CERT, DOWNLINK_DEVICE_AUTH: 'both' }, 'DOWNLINK_TLS_CLIENT_CA_FILE is not set'],
    [{ ...CERT, DOWNLINK_DEVICE_AUTH: 'neither' }, 'one of either, token, certificate, both'],
    [{ ...CERT, DOWNLINK_HTTPS_PORT: '65536' }, 'DOWNLINK_HTTPS_PORT is a port'],
    [{ DOWNLINK_HTTP_PORT: 'off' }, 'nobody could manage the server'],
    [{ ...CERT, DOWNLINK_HTTP_PORT: 'off', DOWNLINK_HTTPS_PORT: 'off' }, 'nobody could manage the server'],
  ])('%j is refused with a line that names what is wrong', (environment, line) => {
    expect(() => readConfig(environment)).toThrow(line);
  });

  test('a file that cannot be used stops the start, and the line names the variable and the file', async () => {
    await expect(TlsServer.start({ config: { tls: { ...tlsOf('/nowhere/cert.pem'), enabled: true } } })).rejects.toThrow(
      'DOWNLINK_TLS_CERT_FILE: /nowhere/cert.pem cannot be used: there is no such file',
    );
  });

  function tlsOf(cert: string) {
    const files = { cert, key: cert, clientCa: undefined, crl: undefined };
    return { files, mqttsPort: 0, httpsPort: 0, deviceAuth: 'either' } as const;
  }
});

describe('the words at the start', () => {
  const words = (environment: Record<string, string>, ports: Partial<Parameters<typeof banner>[1]>): string =>
    banner(
      readConfig(environment),
      {
        ...{ httpPort: undefined, mqttPort: undefined, httpsPort: undefined, mqttsPort: undefined },
        ...{ adminKey: undefined, isFirstStart: false, openCommands: 0 },
        ...ports,
      },
      '1.0.0',
    );
  const TLS = { DOWNLINK_TLS_CERT_FILE: 'a', DOWNLINK_TLS_KEY_FILE: 'b', DOWNLINK_HOST: '0.0.0.0' };

  test('name the addresses with TLS first', () => {
    const said = words(TLS, { httpPort: 1, mqttPort: 2, httpsPort: 3, mqttsPort: 4 });
    expect(said).toContain('mqtts://0.0.0.0:4   wss://0.0.0.0:3/mqtt   mqtt://0.0.0.0:2   ws://0.0.0.0:1/mqtt');
    expect(said).toContain('https://0.0.0.0:3   http://0.0.0.0:1   API pages: https://0.0.0.0:3/docs');
  });

  test('name a simulation that gets through where the plain ports are closed', () => {
    expect(words(TLS, { httpsPort: 3, mqttsPort: 4 })).toContain(
      'npm run simulate -- --url https://localhost:3 --mqtt mqtts://localhost:4 (in another terminal; NODE_EXTRA_CA_CERTS',
    );
    expect(words(TLS, { httpsPort: 3 })).toContain('--url https://localhost:3 --mqtt wss://localhost:3/mqtt');
    expect(words(TLS, { httpPort: 1, mqttsPort: 4 })).toContain('--url http://localhost:1 --mqtt mqtts://localhost:4');
    expect(words(TLS, { httpPort: 1, mqttPort: 2, httpsPort: 3, mqttsPort: 4 })).toContain('Next: npm run simulate (in');
  });

  test('warn of plain ports beyond loopback, name the way out, and are silent when it was taken', () => {
    expect(words({ DOWNLINK_HOST: '0.0.0.0' }, { httpPort: 1 })).toContain('without TLS: tokens and commands can be read');
    expect(words({ DOWNLINK_HOST: '0.0.0.0' }, { httpPort: 1 })).toContain('set DOWNLINK_TLS_CERT_FILE');
    expect(words(TLS, { httpPort: 1 })).toContain('set DOWNLINK_MQTT_PORT=off and DOWNLINK_HTTP_PORT=off');
    expect(words({ ...TLS, DOWNLINK_MQTT_PORT: 'off' }, { httpPort: 1 })).toContain('; set DOWNLINK_HTTP_PORT=off');
    expect(words({ ...TLS, DOWNLINK_MQTT_PORT: 'off', DOWNLINK_HTTP_PORT: 'off' }, { httpsPort: 1 })).not.toContain('Warning');
    expect(words({}, { httpPort: 1 })).not.toContain('Warning');
  });
});

test('a simulation says that a certificate is not accepted, and how an authority of one’s own is named', async () => {
  const url = `https://localhost:${server.httpsPort}`;
  await expect(openOperatorApi({ url, mqttUrl: '', dataDir: server.folder, adminKey: 'k' })).rejects.toThrow(
    /^The certificate of https:\/\/localhost:\d+ is not accepted: .*NODE_EXTRA_CA_CERTS/,
  );
});
