import { Readable } from 'node:stream';
import type { Logger } from 'pino';
import { SECOND_MS, type Clock } from '../../devices/clock.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { backupOf, type BackupSource } from './backup-file.ts';
import type { Metrics } from '../metrics.ts';
import type { History } from '../store/history.ts';
import type { State } from '../store/state.ts';

/**
 * Backups of a server that goes on working: one at a time, as a stream that reads no further than it is read. While it lasts the stores keep what is
 * overwritten, so a reader that stands still is given up.
 */
const LAST_KEY = 'meta/last-backup';
const STALLED_MS_MAX = 30_000;
const RETRY_SECONDS = 30;

export type BackupsParts = {
  readonly state: State;
  readonly history: Pick<History, 'snapshot'>;
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly log: Logger;
  /** Downlink's version. */
  readonly version: string;
};

export class Backups {
  readonly #parts: BackupsParts;
  readonly #stalledMsMax: number;
  #isGoingOn = false;
  /** Epoch milliseconds of the newest whole backup's beginning; 0: there never was one. */
  #lastAt = 0;

  constructor(parts: BackupsParts, stalledMsMax = STALLED_MS_MAX) {
    this.#parts = parts;
    this.#stalledMsMax = stalledMsMax;
    parts.metrics.gauge(
      'downlink_last_backup_timestamp_seconds',
      'When the newest backup that was read to its end began, seconds since the epoch; 0 when there is none',
      () => this.#lastAt / SECOND_MS,
    );
  }

  async load(): Promise<void> {
    const at = Number((await this.#parts.state.get(LAST_KEY)) ?? '0');
    if (Number.isSafeInteger(at)) this.#lastAt = at;
  }

  /** One is being made. */
  get isGoingOn(): boolean {
    return this.#isGoingOn;
  }

  /** Throws `rate_limited` while another one is being made. */
  assertFree(): void {
    if (!this.#isGoingOn) return;
    throw new DownlinkError('rate_limited', 'a backup is being made; one at a time', { retryAfterSeconds: RETRY_SECONDS });
  }

  /**
   * Begins one: everything that is durable now is in it. The stream ends by itself, or breaks off without the last line when a store fails or the reader
   * stands still. Throws `rate_limited` while another one is being made.
   */
  begin({ withHistory }: { readonly withHistory: boolean }): Readable {
    this.assertFree();
    this.#isGoingOn = true;
    const { clock, log, version } = this.#parts;
    const stalledMsMax = this.#stalledMsMax;
    const startedAt = clock.now();
    const sources = this.#sources(withHistory);
    const chunks = backupOf(sources, { madeAt: new Date(startedAt).toISOString(), downlink: version });
    let stalled: NodeJS.Timeout | undefined;
    let broken: Error | undefined = new Error('its reader went away');
    const giveUp = (): unknown => stream.destroy(new Error(`nobody has read on for ${stalledMsMax / SECOND_MS} s`));
    const watched = async function* (keep: () => void): AsyncGenerator<Buffer> {
      for (;;) {
        const { done, value } = await chunks.next();
        if (done === true) {
          broken = undefined;
          log.info({ entries: value.entries, bytes: value.bytes }, 'backup made');
          return keep();
        }
        stalled = setTimeout(giveUp, stalledMsMax).unref();
        yield value;
        clearTimeout(stalled);
      }
    };
    const stream = Readable.from(
      watched(() => this.#keep(startedAt)),
      { objectMode: false },
    );
    stream.once('error', (error) => (broken = error));
    stream.once('close', () => {
      clearTimeout(stalled);
      if (broken !== undefined) log.warn(`backup broken off: ${broken.message}`);
      void this.#letGo(sources);
    });
    return stream;
  }

  async #letGo(sources: readonly BackupSource[]): Promise<void> {
    await Promise.allSettled(sources.map(({ snapshot }) => snapshot.close()));
    this.#isGoingOn = false;
  }

  #sources(withHistory: boolean): BackupSource[] {
    const { state, history } = this.#parts;
    const sources: BackupSource[] = [{ name: 'state', snapshot: state.snapshot() }];
    const past = withHistory ? history.snapshot() : undefined;
    return past === undefined ? sources : [...sources, { name: 'history', snapshot: past }];
  }

  #keep(at: number): void {
    this.#lastAt = at;
    this.#parts.state.ride([{ put: LAST_KEY, value: String(at) }], []).catch(() => {});
  }
}
