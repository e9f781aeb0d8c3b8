// oxlint-disable-next-line import/no-unassigned-import -- @peculiar/x509 wants it to be there before.
import 'reflect-metadata';
import { randomBytes, type webcrypto } from 'node:crypto';
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
  X509CrlGenerator,
  type JsonGeneralName,
  type X509Certificate,
} from '@peculiar/x509';
import { DAY_MS } from '../devices/clock.ts';

/** A certificate authority for tests: servers' and devices' certificates, and revocation lists. */
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** In PEM. */
export type Issued = { readonly cert: string; readonly key: string; readonly serialNumber: string };

export type Wanted = {
  readonly subject?: string;
  readonly names?: JsonGeneralName[];
  /** Days from now; before now for one that has ended. */
  readonly days?: number;
};

export class Authority {
  readonly #certificate: X509Certificate;
  readonly #keys: webcrypto.CryptoKeyPair;

  private constructor(certificate: X509Certificate, keys: webcrypto.CryptoKeyPair) {
    this.#certificate = certificate;
    this.#keys = keys;
  }

  static async make(name = 'Test CA'): Promise<Authority> {
    const keys = await newKeys();
    const certificate = await X509CertificateGenerator.createSelfSigned({
      serialNumber: newSerial(),
      name: `CN=${name}`,
      ...validFor(30),
      signingAlgorithm: ALGORITHM,
      keys,
      extensions: [
        new BasicConstraintsExtension(true, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      ],
    });
    return new Authority(certificate, keys);
  }

  get pem(): string {
    return this.#certificate.toString('pem');
  }

  /** For localhost and 127.0.0.1. */
  async server(days = 30): Promise<Issued> {
    return this.#issue(ExtendedKeyUsage.serverAuth, {
      subject: 'CN=localhost',
      names: [
        { type: 'dns', value: 'localhost' },
        { type: 'ip', value: '127.0.0.1' },
      ],
      days,
    });
  }

  /** Names the device by its common name, unless `wanted` says otherwise. */
  async device(id: string, wanted: Wanted = {}): Promise<Issued> {
    return this.#issue(ExtendedKeyUsage.clientAuth, { subject: `CN=${id}`, ...wanted });
  }

  /** A revocation list, PEM. */
  async revoke(revoked: readonly Issued[], days = 30): Promise<string> {
    const list = await X509CrlGenerator.create({
      issuer: this.#certificate.subject,
      thisUpdate: new Date(Date.now() - 60 * DAY_MS),
      nextUpdate: new Date(Date.now() + days * DAY_MS),
      signingAlgorithm: ALGORITHM,
      signingKey: this.#keys.privateKey,
      entries: revoked.map(({ serialNumber }) => ({ serialNumber, revocationDate: new Date() })),
    });
    return PemConverter.encode(list.rawData, 'X509 CRL');
  }

  async #issue(usage: ExtendedKeyUsage, { subject = '', names = [], days = 30 }: Wanted): Promise<Issued> {
    const keys = await newKeys();
    const serialNumber = newSerial();
    const certificate = await X509CertificateGenerator.create({
      serialNumber,
      subject,
      issuer: this.#certificate.subject,
      ...validFor(days),
      signingAlgorithm: ALGORITHM,
      publicKey: keys.publicKey,
      signingKey: this.#keys.privateKey,
      extensions: [
        new BasicConstraintsExtension(false),
        new ExtendedKeyUsageExtension([usage]),
        ...(names.length > 0 ? [new SubjectAlternativeNameExtension(names)] : []),
      ],
    });
    const key = PemConverter.encode(await crypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY');
    return { cert: certificate.toString('pem'), key, serialNumber };
  }
}

async function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
}

/** The first octet says that it is positive and has no zero in front. */
function newSerial(): string {
  return `5${randomBytes(8).toString('hex').slice(1)}`;
}

function validFor(days: number): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(Date.now() - 90 * DAY_MS), notAfter: new Date(Date.now() + days * DAY_MS) };
}
