import { verify, type X509Certificate } from 'node:crypto';
import { AsnConvert } from '@peculiar/asn1-schema';
import { Certificate, CertificateList } from '@peculiar/asn1-x509';

/**
 * Certificate revocation lists (RFC 5280, 5). At the handshake OpenSSL goes by them; what is read of them here is for connections that were there
 * before their certificate was revoked, and to tell a list that cannot be used before it is.
 */
export type Revocations = {
  /** In PEM, one each. */
  readonly lists: readonly string[];
  /** Epoch ms at which the first of them ends: from then on no certificate of its authority is accepted. */
  readonly endsAt: number | undefined;
  /** By certificateKey. */
  readonly revoked: ReadonlySet<string>;
};

export const NO_REVOCATIONS: Revocations = { lists: [], endsAt: undefined, revoked: new Set() };

/** By the OID of the signature algorithm (RFC 4055, 5758, 8410). */
const DIGEST_OF_ALGORITHM: Readonly<Record<string, string | null>> = {
  '1.2.840.113549.1.1.11': 'sha256',
  '1.2.840.113549.1.1.12': 'sha384',
  '1.2.840.113549.1.1.13': 'sha512',
  '1.2.840.10045.4.3.2': 'sha256',
  '1.2.840.10045.4.3.3': 'sha384',
  '1.2.840.10045.4.3.4': 'sha512',
  // Ed25519 and Ed448 digest by themselves.
  '1.3.101.112': null,
  '1.3.101.113': null,
};

/** Throws an Error with a sentence about what is wrong with them. */
export function readRevocations(pems: readonly string[], authorities: readonly X509Certificate[]): Revocations {
  if (pems.length === 0) throw new Error('it has no revocation list in PEM (-----BEGIN X509 CRL-----)');
  const issuers = authorities.map((authority) => ({ authority, name: hex(AsnConvert.serialize(partsOf(authority).subject)) }));
  const revoked = new Set<string>();
  const listed = new Set<string>();
  let endsAt: number | undefined;
  for (const pem of pems) {
    const list = AsnConvert.parse(Buffer.from(pem.replaceAll(/-----.*?-----/g, ''), 'base64'), CertificateList);
    const { issuer, nextUpdate, revokedCertificates } = list.tbsCertList;
    const name = hex(AsnConvert.serialize(issuer));
    if (!issuers.some((known) => known.name === name && isSignedBy(list, known.authority))) {
      throw new Error('a list in it is signed by none of the authorities in DOWNLINK_TLS_CLIENT_CA_FILE');
    }
    listed.add(name);
    for (const { userCertificate } of revokedCertificates ?? []) revoked.add(keyOf(name, hex(userCertificate)));
    const end = nextUpdate?.getTime().getTime();
    if (end !== undefined) endsAt = Math.min(endsAt ?? end, end);
  }
  // OpenSSL would accept no certificate of it.
  const unlisted = issuers.find(({ name }) => !listed.has(name));
  if (unlisted !== undefined) throw new Error(`it has no list of ${unlisted.authority.subject.replaceAll('\n', ', ')}`);
  return { lists: pems, endsAt, revoked };
}

/** Which certificate this is, among all of all authorities. */
export function certificateKey(certificate: X509Certificate): string {
  const { issuer, serialNumber } = partsOf(certificate);
  return keyOf(hex(AsnConvert.serialize(issuer)), hex(serialNumber));
}

function isSignedBy({ tbsCertListRaw, signatureAlgorithm, signature }: CertificateList, authority: X509Certificate): boolean {
  const digest = DIGEST_OF_ALGORITHM[signatureAlgorithm.algorithm];
  if (digest === undefined || tbsCertListRaw === undefined) return false;
  return verify(digest, Buffer.from(tbsCertListRaw), authority.publicKey, Buffer.from(signature));
}

function partsOf({ raw }: X509Certificate): Certificate['tbsCertificate'] {
  return AsnConvert.parse(raw, Certificate).tbsCertificate;
}

function keyOf(issuer: string, serialNumber: string): string {
  return `${issuer} ${serialNumber}`;
}

function hex(octets: ArrayBuffer): string {
  return Buffer.from(octets).toString('hex');
}
