import type { Server } from 'node:tls';
import type { Logger } from 'pino';
import type { Clock } from '../../devices/clock.ts';
import type { DeviceAuth, TlsConfig } from '../config-tls.ts';
import type { Metrics } from '../metrics.ts';
import { Certificates } from './certificates.ts';
import { TlsMetrics } from './tls-metrics.ts';
import { TlsPort, type TlsPortOptions } from './tls-port.ts';

/** All ports that speak TLS, which share their certificates. Without TLS there are none, and that is no special case for anybody. */
export class TlsPorts {
  readonly deviceAuth: DeviceAuth;
  readonly #certificates: Certificates | undefined;
  readonly #metrics: TlsMetrics | undefined;
  readonly #log: Logger;
  readonly #ports: TlsPort[] = [];

  private constructor(deviceAuth: DeviceAuth, log: Logger, certificates?: Certificates, metrics?: TlsMetrics) {
    this.deviceAuth = deviceAuth;
    this.#log = log;
    this.#certificates = certificates;
    this.#metrics = metrics;
  }

  /** Throws TlsFileError. */
  static async open(config: TlsConfig, parts: { metrics: Metrics; log: Logger; clock: Clock }): Promise<TlsPorts> {
    if (!config.enabled) return new TlsPorts('either', parts.log);
    const tlsMetrics = new TlsMetrics(parts.metrics.registry);
    const certificates = await Certificates.open(config.files, { ...parts, tlsMetrics });
    return new TlsPorts(config.deviceAuth, parts.log, certificates, tlsMetrics);
  }

  /** Resolves with the port. `guard` is given the server before it listens. */
  async listen(
    {
      name,
      protocols,
      accept,
      guard,
    }: Pick<TlsPortOptions, 'name' | 'protocols' | 'accept'> & { guard?: (server: Server) => void },
    host: string,
    port: number,
  ): Promise<number> {
    if (this.#certificates === undefined || this.#metrics === undefined) throw new Error('bug: TLS is not configured');
    const tlsPort = new TlsPort({
      name,
      protocols,
      accept,
      certificates: this.#certificates,
      deviceAuth: this.deviceAuth,
      metrics: this.#metrics,
      log: this.#log,
    });
    guard?.(tlsPort.server);
    this.#ports.push(tlsPort);
    return tlsPort.listen(host, port);
  }

  stopListening(): void {
    for (const port of this.#ports) port.stopListening();
  }

  close(): void {
    this.#certificates?.close();
    for (const port of this.#ports) port.close();
  }
}
