import type { Logger } from 'pino';
import { DAY_MS, HOUR_MS, type Clock } from '../../devices/clock.ts';
import type { TlsFiles } from '../config-tls.ts';
import type { Metrics } from '../metrics.ts';
import { loadTlsMaterial, signatureOf, type TlsMaterial } from './tls-material.ts';
import type { TlsMetrics } from './tls-metrics.ts';

/**
 * The certificate files as they were last found good. They are looked at four times a second (which finds every way of replacing a file, on every file
 * system), and taken when they have changed and then stayed the same once, since a certificate and its key are written one after the
 * other. What cannot be used is told of once; what was taken before stays.
 */
const LOOK_EVERY_MS = 250;
const REMIND_EVERY_MS = 12 * HOUR_MS;
const WARN_DAYS = 14;

type Parts = { readonly metrics: Metrics; readonly tlsMetrics: TlsMetrics; readonly log: Logger; readonly clock: Clock };

export class Certificates {
  readonly #files: TlsFiles;
  readonly #parts: Parts;
  readonly #listeners: ((material: TlsMaterial) => void)[] = [];
  #material: TlsMaterial;
  /** Of the files that were last read, good or not. */
  #read: string;
  #seen: string;
  #isLooking = false;
  readonly #timers: NodeJS.Timeout[];

  private constructor(files: TlsFiles, material: TlsMaterial, signature: string, parts: Parts) {
    this.#files = files;
    this.#material = material;
    this.#read = signature;
    this.#seen = signature;
    this.#parts = parts;
    parts.metrics.gauge('downlink_tls_certificate_days_left', "Days until the server's certificate ends", () =>
      this.#daysUntil(this.#material.certificateEndsAt),
    );
    this.#remind();
    this.#timers = [
      setInterval(() => void this.#look(), LOOK_EVERY_MS).unref(),
      setInterval(() => this.#remind(), REMIND_EVERY_MS).unref(),
    ];
  }

  /** Throws TlsFileError. */
  static async open(files: TlsFiles, parts: Parts): Promise<Certificates> {
    const signature = await signatureOf(files);
    return new Certificates(files, await loadTlsMaterial(files), signature, parts);
  }

  get material(): TlsMaterial {
    return this.#material;
  }

  /** Told after files were found changed and good. */
  onReload(listener: (material: TlsMaterial) => void): void {
    this.#listeners.push(listener);
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }

  async #look(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    try {
      const signature = await signatureOf(this.#files);
      const isSettled = signature === this.#seen;
      this.#seen = signature;
      if (isSettled && signature !== this.#read) await this.#reload(signature);
    } finally {
      this.#isLooking = false;
    }
  }

  async #reload(signature: string): Promise<void> {
    const { tlsMetrics, log } = this.#parts;
    this.#read = signature;
    try {
      const material = await loadTlsMaterial(this.#files);
      for (const listener of this.#listeners) listener(material);
      this.#material = material;
      tlsMetrics.reloads.inc({ outcome: 'taken' });
      log.info(`TLS: certificate files taken anew; the certificate ends ${new Date(material.certificateEndsAt).toISOString()}`);
      this.#remind();
    } catch (error) {
      tlsMetrics.reloads.inc({ outcome: 'refused' });
      log.warn(`TLS: the files changed and those from before stay in use: ${(error as Error).message}`);
    }
  }

  #remind(): void {
    const { certificateEndsAt, revocations } = this.#material;
    this.#remindOf('the certificate', certificateEndsAt, WARN_DAYS);
    if (revocations.endsAt !== undefined)
      this.#remindOf('the revocation list, without which no client certificate is accepted,', revocations.endsAt, 1);
  }

  #remindOf(what: string, endsAt: number, warnDays: number): void {
    const days = this.#daysUntil(endsAt);
    if (days >= warnDays) return;
    const verb = days < 0 ? 'ended' : 'ends';
    this.#parts.log.warn(`TLS: ${what} ${verb} ${new Date(endsAt).toISOString()}; put a new one in the place of its file`);
  }

  #daysUntil(endsAt: number): number {
    return (endsAt - this.#parts.clock.now()) / DAY_MS;
  }
}
