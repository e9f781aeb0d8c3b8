import { resolve } from 'node:path';

/** TLS from the environment: the files, the ports, and what devices have to show. */
export type TlsConfig =
  | { readonly enabled: false }
  | {
      readonly enabled: true;
      readonly files: TlsFiles;
      readonly mqttsPort: Port;
      readonly httpsPort: Port;
      readonly deviceAuth: DeviceAuth;
    };

export type TlsFiles = {
  /** PEM: the server's certificate, then the intermediates up to its root. */
  readonly cert: string;
  /** PEM, without a passphrase. */
  readonly key: string;
  /** PEM: the authorities whose certificates of devices are taken. Absent: no client certificate is asked for. */
  readonly clientCa: string | undefined;
  /** PEM: a revocation list of each of them. */
  readonly crl: string | undefined;
};

/** What a device shows to be let in: its token or its certificate, this one alone, or both. */
export type DeviceAuth = (typeof DEVICE_AUTHS)[number];
export const DEVICE_AUTHS = ['either', 'token', 'certificate', 'both'] as const;

/** 0 is any free one. */
export type Port = number | 'off';

export const TLS_VARIABLES = [
  'DOWNLINK_TLS_CERT_FILE',
  'DOWNLINK_TLS_KEY_FILE',
  'DOWNLINK_TLS_CLIENT_CA_FILE',
  'DOWNLINK_TLS_CRL_FILE',
  'DOWNLINK_MQTTS_PORT',
  'DOWNLINK_HTTPS_PORT',
  'DOWNLINK_DEVICE_AUTH',
] as const;
type TlsVariable = (typeof TLS_VARIABLES)[number];

const PORT_MAX = 65_535;

/** `fail` throws with the line that it is given. */
export function readTls(read: (name: TlsVariable) => string | undefined, fail: (line: string) => never): TlsConfig {
  const [cert, key] = [read('DOWNLINK_TLS_CERT_FILE'), read('DOWNLINK_TLS_KEY_FILE')];
  if (cert === undefined) {
    const stray = TLS_VARIABLES.find((name) => read(name) !== undefined);
    return stray === undefined
      ? { enabled: false }
      : fail(`${stray} is set but DOWNLINK_TLS_CERT_FILE is not; set it too, or unset ${stray}`);
  }
  if (key === undefined) return fail('DOWNLINK_TLS_CERT_FILE is set but DOWNLINK_TLS_KEY_FILE is not; set it too');
  const [clientCa, crl] = [read('DOWNLINK_TLS_CLIENT_CA_FILE'), read('DOWNLINK_TLS_CRL_FILE')];
  if (crl !== undefined && clientCa === undefined) {
    return fail(
      'DOWNLINK_TLS_CRL_FILE is set but DOWNLINK_TLS_CLIENT_CA_FILE is not; without it no client certificate is asked for',
    );
  }
  const given = read('DOWNLINK_DEVICE_AUTH') ?? 'either';
  const deviceAuth = DEVICE_AUTHS.find((name) => name === given);
  if (deviceAuth === undefined) return fail(`DOWNLINK_DEVICE_AUTH is one of ${DEVICE_AUTHS.join(', ')}, not "${given}"`);
  if ((deviceAuth === 'certificate' || deviceAuth === 'both') && clientCa === undefined) {
    return fail(
      `DOWNLINK_DEVICE_AUTH is ${deviceAuth} but DOWNLINK_TLS_CLIENT_CA_FILE is not set; it says whose certificates are taken`,
    );
  }
  return {
    enabled: true,
    files: { cert: resolve(cert), key: resolve(key), clientCa: clientCa && resolve(clientCa), crl: crl && resolve(crl) },
    mqttsPort: readPort('DOWNLINK_MQTTS_PORT', read('DOWNLINK_MQTTS_PORT'), 8883, fail),
    httpsPort: readPort('DOWNLINK_HTTPS_PORT', read('DOWNLINK_HTTPS_PORT'), 8443, fail),
    deviceAuth,
  };
}

export function readPort(name: string, text: string | undefined, byDefault: number, fail: (line: string) => never): Port {
  if (text === undefined) return byDefault;
  if (text === 'off') return 'off';
  const value = Number(text);
  if (/^\d{1,5}$/.test(text) && value <= PORT_MAX) return value;
  return fail(`${name} is a port from 0 (any free one) to ${PORT_MAX}, or off, not "${text}"`);
}
