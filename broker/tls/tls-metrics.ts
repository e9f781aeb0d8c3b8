import { Counter, type Registry } from 'prom-client';

/** What `/metrics` shows of TLS beside the gauge of Certificates. */
export class TlsMetrics {
  readonly handshakeFailures: Counter<'port' | 'reason'>;
  readonly reloads: Counter<'outcome'>;
  readonly revokedCuts: Counter;

  constructor(registry: Registry) {
    this.handshakeFailures = new Counter({
      name: 'downlink_tls_handshakes_failed_total',
      help: 'TLS handshakes that failed, by why',
      labelNames: ['port', 'reason'],
      registers: [registry],
    });
    this.reloads = new Counter({
      name: 'downlink_tls_reloads_total',
      help: 'Times that certificate files had changed: taken, or refused and the old ones kept',
      labelNames: ['outcome'],
      registers: [registry],
    });
    // Prometheus tells no increase from a series that begins with 1.
    for (const outcome of ['taken', 'refused']) this.reloads.inc({ outcome }, 0);
    this.revokedCuts = new Counter({
      name: 'downlink_tls_revoked_connections_total',
      help: 'Open connections that were cut since their client certificate was revoked',
      registers: [registry],
    });
  }
}
