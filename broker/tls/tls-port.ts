import type { X509Certificate } from 'node:crypto';
import type { AddressInfo, Socket } from 'node:net';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import { CONNECT_BACKLOG } from '../limits/connection-gate.ts';
import type { DeviceAuth } from '../config-tls.ts';
import type { Certificates } from './certificates.ts';
import { noteClientCertificate } from './client-certificate.ts';
import { handshakeFailure, type HandshakeFailure } from './handshake-failure.ts';
import { certificateKey } from './revocations.ts';
import type { TlsMetrics } from './tls-metrics.ts';

/**
 * A port that speaks TLS: handshakes, client certificates, and what becomes of connections when the certificate files change. What is said over it
 * is for whoever takes the connection.
 *
 * With rejectUnauthorized off, Node lets a certificate that is not good through and says so in `authorized`; this is where that is
 * looked at, before anybody reads from the connection.
 */
export type TlsPortOptions = {
  readonly name: 'mqtts' | 'https';
  /** Application protocols (RFC 7301), the best first; a client that offers none of them is refused, one that offers nothing is not. */
  readonly protocols: readonly string[];
  readonly certificates: Certificates;
  readonly deviceAuth: DeviceAuth;
  readonly metrics: TlsMetrics;
  readonly log: Logger;
  readonly handshakeMsMax?: number;
  readonly accept: (socket: TLSSocket) => void;
};

const HANDSHAKE_MS_MAX = 10_000;
const CHAIN_MAX = 8;

export class TlsPort {
  /** Its `connection` event is about sockets on which TLS has yet to begin. */
  readonly server: Server;
  readonly #options: TlsPortOptions;
  /** By connection, the keys of the certificates that its client has shown. */
  readonly #shownOn = new Map<TLSSocket, readonly string[]>();
  readonly #sockets = new Set<Socket>();
  /** The keys of certificates that are revoked now. */
  #revoked: ReadonlySet<string>;

  constructor(options: TlsPortOptions) {
    const { certificates, protocols, handshakeMsMax = HANDSHAKE_MS_MAX, deviceAuth } = options;
    this.#options = options;
    this.#revoked = certificates.material.revocations.revoked;
    this.server = createServer({
      ...certificates.material.context,
      ALPNProtocols: [...protocols],
      requestCert: certificates.material.context.ca !== undefined && deviceAuth !== 'token',
      rejectUnauthorized: false,
      handshakeTimeout: handshakeMsMax,
      noDelay: true,
    });
    this.server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    this.server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
      this.#fail(handshakeFailure(error.code), error.message);
      socket.destroy();
    });
    this.server.on('secureConnection', (socket) => this.#take(socket));
    certificates.onReload(({ context, revocations }) => {
      // A new context has new ticket keys: who resumes a session from before goes through a whole handshake.
      this.server.setSecureContext(context);
      this.#revoked = revocations.revoked;
      for (const [socket, keys] of this.#shownOn) if (keys.some((key) => this.#revoked.has(key))) this.#cut(socket);
    });
  }

  /** Resolves with the port. */
  async listen(host: string, port: number): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen({ port, host, backlog: CONNECT_BACKLOG }, resolve);
    });
    this.server.on('error', (error: Error) => this.#options.log.error(`${this.#options.name} port: ${error.message}`));
    return (this.server.address() as AddressInfo).port;
  }

  /** Takes no new connection; those there are stay. */
  stopListening(): void {
    this.server.close();
  }

  /** Ends what whoever took the connections has left, and handshakes that are under way. */
  close(): void {
    this.server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #take(socket: TLSSocket): void {
    const { deviceAuth, accept } = this.#options;
    socket.on('error', () => socket.destroy());
    socket.disableRenegotiation();
    const problem = this.#noteShown(socket);
    if (problem !== undefined && (deviceAuth === 'certificate' || deviceAuth === 'both')) {
      this.#fail('client_certificate', problem);
      socket.destroy();
      return;
    }
    if (!socket.destroyed) accept(socket);
  }

  /** Returns why the client certificate is not good, when one was shown that is not. */
  #noteShown(socket: TLSSocket): string | undefined {
    const shown = noteClientCertificate(socket);
    if (shown === undefined) return undefined;
    // Only what is good opens anything, and only what an authority has signed is worth a closer look.
    if (!socket.authorized) return shown.problem;
    const keys = keysOf(socket.getPeerX509Certificate());
    // Its handshake began before the list came that is in use now.
    if (keys.some((key) => this.#revoked.has(key))) this.#cut(socket);
    this.#shownOn.set(socket, keys);
    socket.once('close', () => this.#shownOn.delete(socket));
    return undefined;
  }

  #cut(socket: TLSSocket): void {
    this.#options.metrics.revokedCuts.inc();
    this.#options.log.info({ from: socket.remoteAddress }, `${this.#options.name}: cut, its client certificate is revoked`);
    socket.destroy();
  }

  #fail(reason: HandshakeFailure, message: string): void {
    this.#options.metrics.handshakeFailures.inc({ port: this.#options.name, reason });
    this.#options.log.debug(`${this.#options.name}: ${reason}: ${message}`);
  }
}

/** Of the certificate and of those above it that came with it. */
function keysOf(certificate: X509Certificate | undefined): string[] {
  const keys: string[] = [];
  for (let one = certificate; one !== undefined && keys.length < CHAIN_MAX; one = one.issuerCertificate)
    keys.push(certificateKey(one));
  return keys;
}
