import type { MetricValue } from '../../devices/telemetry.ts';
import { delay } from './backoff.ts';
import type { ClientCounts, ClientOptions, CommandHandler, Delivery, DeviceClient } from './device-client.ts';
import { DeviceCore } from './device-core.ts';
import { PullLink, type PullLinkOptions } from './pull-link.ts';
import { requireAddress } from './server-address.ts';
import type { Schedule } from './wake-timer.ts';

export type PullClientOptions = ClientOptions &
  Omit<PullLinkOptions, 'ask' | 'schedule'> & {
    /** `plain` unless said otherwise. */
    readonly ask?: PullLinkOptions['ask'];
    /** When to wake: a schedule, as `server` the times the server asks for, or as `manual` only when `wake()` is called; for long polls `always` unless said otherwise. */
    readonly schedule?: Schedule;
  };

/**
 * A device that sleeps, over HTTP. On each wake it sends what it measured and what came of earlier commands, takes what is queued for
 * it, and carries that out.
 */
export class PullClient implements DeviceClient {
  readonly #core: DeviceCore;
  readonly #link: PullLink;
  #mode: 'new' | 'running' | 'stopped' = 'new';

  /** Throws a TypeError when the server's address is missing, or none. */
  constructor(options: PullClientOptions) {
    requireAddress('PullClient', 'url', options.url, 'http');
    const { ask = 'plain', schedule = ask === 'long-poll' ? 'always' : 'server' } = options;
    this.#core = new DeviceCore(options);
    this.#link = new PullLink(this.#core, { ...options, ask, schedule });
    this.#core.onWaiting = (what) => this.#mode !== 'new' && this.#link.send(what);
  }

  get counts(): ClientCounts {
    return this.#core.counts;
  }

  onCommand(name: string, handler: CommandHandler): void {
    this.#core.handle(name, handler);
  }

  /** Wakes once, then as scheduled. */
  async start(): Promise<void> {
    if (this.#mode !== 'new') throw new Error('a client starts once');
    this.#mode = 'running';
    this.#core.reportAgain();
    const first = await this.#link.start();
    if (first.status !== 401) return;
    this.#mode = 'stopped';
    this.#link.stop();
    await this.#core.close();
    throw new Error('the server refuses the token');
  }

  telemetry(values: Readonly<Record<string, MetricValue>>, ts?: number): Promise<Delivery> {
    return this.#core.telemetry(values, ts);
  }

  /**
   * One contact. Resolves with when the server expects the next one, as soon as nothing more is to come by this one and what
   * it brought is carried out and reported (or could not be). A wake during a wake is the same wake.
   */
  async wake(): Promise<{ retryAfterMs: number | undefined }> {
    if (this.#mode !== 'running') throw new Error('the client is not started, or stopped');
    const { sleepMs } = await this.#link.wake();
    await this.#core.idle();
    await this.#link.sendReports();
    return { retryAfterMs: sleepMs };
  }

  async stop(): Promise<void> {
    if (this.#mode === 'stopped') return;
    const wasRunning = this.#mode === 'running';
    this.#mode = 'stopped';
    this.#link.pause();
    this.#core.beginStop();
    const until = Date.now() + STOP_MS_MAX;
    const isOver = () => this.#core.hasNothingToSay || Date.now() > until;
    while (wasRunning && !isOver()) {
      await Promise.race([this.#link.sendAll(), delay(STOP_MS_MAX)]);
      if (!isOver()) await delay(STOP_RETRY_MS);
    }
    this.#link.stop();
    await this.#core.close();
  }
}

const STOP_MS_MAX = 3_000;
const STOP_RETRY_MS = 200;
