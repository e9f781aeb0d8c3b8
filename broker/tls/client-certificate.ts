import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { isDeviceId } from '../../devices/device.ts';

/**
 * Which device a client certificate names: by a URI `urn:downlink:device:{id}` among its alternative names, else by its common name. Only a
 * certificate that the TLS layer has found good counts, and it belongs to the connection, never to a header.
 */
export type ClientCertificate =
  /** Good, and it names a device, registered or not. */
  | { readonly deviceId: string; readonly problem?: undefined }
  /** It lets nobody in; `problem` is a sentence about why. */
  | { readonly deviceId?: undefined; readonly problem: string };

const URI_PREFIX = 'urn:downlink:device:';
const SHOWN = Symbol('the client certificate shown on this connection');

/** Of a connection over which TLS is established: of a socket, or of what node:http2 gives as a request's socket. Undefined: none was shown. */
export function clientCertificateOf(socket: object): ClientCertificate | undefined {
  return (socket as { [SHOWN]?: ClientCertificate })[SHOWN];
}

/** To what is spoken over the connection, such as the stream of a WebSocket. */
export function passCertificateOn(from: object, to: object): void {
  (to as { [SHOWN]?: ClientCertificate | undefined })[SHOWN] = clientCertificateOf(from);
}

/** Called once TLS is established, before anything is read. */
export function noteClientCertificate(socket: TLSSocket): ClientCertificate | undefined {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) return undefined;
  const shown = socket.authorized
    ? deviceOfCertificate(certificate)
    : { problem: `the client certificate is not accepted: ${reasonOf(socket.authorizationError)}` };
  (socket as { [SHOWN]?: ClientCertificate })[SHOWN] = shown;
  return shown;
}

export function deviceOfCertificate(certificate: X509Certificate): ClientCertificate {
  const uris = uriNamesOf(certificate.subjectAltName ?? '').filter((uri) => uri.startsWith(URI_PREFIX));
  // More than one common name comes as a list.
  const { CN: commonName } = certificate.toLegacyObject().subject as { CN?: string | string[] };
  const named = uris.length > 0 ? uris.map((uri) => uri.slice(URI_PREFIX.length)) : [commonName ?? []].flat();
  const [deviceId, ...others] = named;
  if (deviceId === undefined) return { problem: `the client certificate has neither a URI ${URI_PREFIX}{id} nor a common name` };
  if (others.length > 0) return { problem: 'the client certificate names more than one device' };
  if (!isDeviceId(deviceId)) return { problem: 'the client certificate names a device by what is no device id' };
  return { deviceId };
}

/** Node writes a name that holds a comma or a quote as a JSON string, so that it cannot pass for another. */
const ALTERNATIVE_NAME = /([^:,"]+):("(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)/gy;

function uriNamesOf(subjectAltName: string): string[] {
  return Array.from(subjectAltName.matchAll(ALTERNATIVE_NAME), ([, kind, name = '']) => (kind === 'URI' ? name : '')).filter(
    (name) => name !== '' && !name.startsWith('"'),
  );
}

/** OpenSSL's code in words: `CERT_HAS_EXPIRED` becomes `cert has expired`. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.message) : String(error);
  return code.toLowerCase().replaceAll('_', ' ');
}
