/** Why a handshake failed, in a few classes for the metrics: what OpenSSL has to say is as various as clients are. */
export type HandshakeFailure =
  /** What came is no TLS. */
  | 'not_tls'
  /** No version, cipher or application protocol that both would use. */
  | 'no_common_ground'
  /** The client did not like the server's certificate, most often since it does not know its authority. */
  | 'refused_by_client'
  | 'client_certificate'
  | 'too_slow'
  | 'gone'
  | 'malformed';

/** `code` as Node gives it: `ERR_SSL_` and OpenSSL's reason, or its own. */
export function handshakeFailure(code: string | undefined): HandshakeFailure {
  switch (code) {
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return 'too_slow';
    case 'ECONNRESET':
    case 'EPIPE':
      return 'gone';
    case 'ERR_SSL_HTTP_REQUEST':
    case 'ERR_SSL_HTTPS_PROXY_REQUEST':
    case 'ERR_SSL_WRONG_VERSION_NUMBER':
    case 'ERR_SSL_UNKNOWN_PROTOCOL':
    case 'ERR_SSL_PACKET_LENGTH_TOO_LONG':
      return 'not_tls';
    case 'ERR_SSL_UNSUPPORTED_PROTOCOL':
    case 'ERR_SSL_VERSION_TOO_LOW':
    case 'ERR_SSL_NO_SHARED_CIPHER':
    case 'ERR_SSL_NO_SHARED_SIGNATURE_ALGORITHMS':
    case 'ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM':
    case 'ERR_SSL_NO_SUITABLE_KEY_SHARE':
    case 'ERR_SSL_NO_APPLICATION_PROTOCOL':
      return 'no_common_ground';
    default:
      return code?.includes('_ALERT_') === true ? 'refused_by_client' : 'malformed';
  }
}
