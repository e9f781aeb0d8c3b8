import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import type { TlsFiles } from '../config-tls.ts';
import { NO_REVOCATIONS, readRevocations, type Revocations } from './revocations.ts';

/** What the certificate files hold, read together and checked together, so that what cannot serve never takes the place of what does. */
export type TlsMaterial = {
  readonly context: SecureContextOptions;
  /** The server's own, the first in its file. */
  readonly certificate: X509Certificate;
  /** Epoch ms. */
  readonly certificateEndsAt: number;
  readonly revocations: Revocations;
};

const VARIABLE_OF: Readonly<Record<keyof TlsFiles, string>> = {
  cert: 'DOWNLINK_TLS_CERT_FILE',
  key: 'DOWNLINK_TLS_KEY_FILE',
  clientCa: 'DOWNLINK_TLS_CLIENT_CA_FILE',
  crl: 'DOWNLINK_TLS_CRL_FILE',
};

/** Mozilla's "intermediate" (version 5.7) without finite-field DHE: forward secrecy and authenticated encryption alone. */
const CONTEXT: SecureContextOptions = {
  minVersion: 'TLSv1.2',
  ciphers: [
    'TLS_AES_128_GCM_SHA256',
    'TLS_AES_256_GCM_SHA384',
    'TLS_CHACHA20_POLY1305_SHA256',
    'ECDHE-ECDSA-AES128-GCM-SHA256',
    'ECDHE-RSA-AES128-GCM-SHA256',
    'ECDHE-ECDSA-AES256-GCM-SHA384',
    'ECDHE-RSA-AES256-GCM-SHA384',
    'ECDHE-ECDSA-CHACHA20-POLY1305',
    'ECDHE-RSA-CHACHA20-POLY1305',
  ].join(':'),
  ecdhCurve: 'X25519:prime256v1:secp384r1',
  honorCipherOrder: true,
};

/** The message is a line that names the variable, its file and what is wrong with it. */
export class TlsFileError extends Error {}

/** Throws TlsFileError. */
export async function loadTlsMaterial(files: TlsFiles): Promise<TlsMaterial> {
  const texts = {
    cert: await textOf(files, 'cert'),
    key: await textOf(files, 'key'),
    clientCa: await textOf(files, 'clientCa'),
    crl: await textOf(files, 'crl'),
  };
  const [certificate] = certificatesIn(files, 'cert', texts.cert);
  const authorities = files.clientCa === undefined ? [] : certificatesIn(files, 'clientCa', texts.clientCa);
  if (certificate === undefined) throw fault(files, 'cert', 'it has no certificate');
  const key = attempt(files, 'key', () => createPrivateKey(texts.key));
  if (!certificate.checkPrivateKey(key)) {
    throw fault(files, 'key', `it is not the key of the certificate in ${files.cert}`);
  }
  const revocations =
    files.crl === undefined
      ? NO_REVOCATIONS
      : attempt(files, 'crl', () => readRevocations(blocksIn(texts.crl, 'X509 CRL'), authorities));
  const context: SecureContextOptions = {
    ...CONTEXT,
    cert: texts.cert,
    key: texts.key,
    // Without allowPartialTrustChain an intermediate would have to come with its root, and with that all of the root's other intermediates.
    ...(authorities.length > 0 && {
      ca: authorities.map((authority) => authority.toString()),
      allowPartialTrustChain: true,
    }),
    ...(revocations.lists.length > 0 && { crl: [...revocations.lists] }),
  };
  attempt(files, 'cert', () => createSecureContext(context));
  return { context, certificate, certificateEndsAt: Date.parse(certificate.validTo), revocations };
}

/** Changes whenever one of the files does, also when it is put in another's place or behind a symbolic link. */
export async function signatureOf({ cert, key, clientCa, crl }: TlsFiles): Promise<string> {
  const states = [cert, key, clientCa, crl].map(async (path) => {
    if (path === undefined) return '';
    const { dev, ino, size, mtimeMs, ctimeMs } = await stat(path).catch(() => GONE);
    return [dev, ino, size, mtimeMs, ctimeMs].join(' ');
  });
  return (await Promise.all(states)).join('|');
}

const GONE = { dev: 0, ino: 0, size: 0, mtimeMs: 0, ctimeMs: 0 };

async function textOf(files: TlsFiles, which: keyof TlsFiles): Promise<string> {
  const path = files[which];
  if (path === undefined) return '';
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw fault(files, which, error.code === 'ENOENT' ? 'there is no such file' : error.message);
  });
}

function certificatesIn(files: TlsFiles, which: keyof TlsFiles, text: string): X509Certificate[] {
  const pems = blocksIn(text, 'CERTIFICATE');
  if (pems.length === 0) throw fault(files, which, 'it has no certificate in PEM (-----BEGIN CERTIFICATE-----)');
  return attempt(files, which, () => pems.map((pem) => new X509Certificate(pem)));
}

function blocksIn(text: string, label: string): string[] {
  return text.match(new RegExp(`-----BEGIN ${label}-----[^-]+-----END ${label}-----`, 'g')) ?? [];
}

function attempt<T>(files: TlsFiles, which: keyof TlsFiles, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw fault(files, which, (error as Error).message);
  }
}

function fault(files: TlsFiles, which: keyof TlsFiles, what: string): TlsFileError {
  return new TlsFileError(`${VARIABLE_OF[which]}: ${files[which]} cannot be used: ${what}`);
}
