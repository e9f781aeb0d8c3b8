import type { MetricValue } from '../../devices/telemetry.ts';
import { followStream, StreamRefused } from '../event-stream.ts';
import { delay } from './backoff.ts';
import type { ClientCounts, ClientOptions, CommandHandler, Delivery, DeviceClient } from './device-client.ts';
import { DeviceCore } from './device-core.ts';
import { HttpUplink } from './http-uplink.ts';
import { jsonHttp } from './json-http.ts';
import { PullLink } from './pull-link.ts';
import { Steadily } from './steadily.ts';
import { requireAddress } from './server-address.ts';

export type SseClientOptions = ClientOptions & {
  /** `http://host:8080`. */
  readonly url: string;
  readonly token: string;
  /** How long to wait before the stream is opened again; 0.5 s doubling to 60 s unless said otherwise. */
  readonly reconnect?: { readonly minMs: number; readonly maxMs: number };
  /** Another way to send, for tests and simulated faults. */
  readonly fetch?: typeof fetch;
};

/**
 * A device that stays connected by server-sent events, for networks that let nothing but HTTP through. Commands come the moment they are issued; reports and
 * samples go in requests of their own. A stream that breaks is resumed behind the last command on record here, which confirms those before it.
 */
export class SseClient implements DeviceClient {
  readonly #options: SseClientOptions;
  readonly #core: DeviceCore;
  readonly #reports: Steadily;
  readonly #samples: Steadily;
  readonly #pull: PullLink;
  readonly #stopped = new AbortController();
  #mode: 'new' | 'started' | 'stopped' = 'new';
  #isOpen = false;
  #firstContact: { resolve: () => void; reject: (error: Error) => void } | undefined;

  /** Throws a TypeError when the server's address is missing, or none. */
  constructor(options: SseClientOptions) {
    requireAddress('SseClient', 'url', options.url, 'http');
    this.#options = options;
    this.#core = new DeviceCore(options);
    const uplink = new HttpUplink(this.#core, jsonHttp(options), this.#stopped.signal);
    this.#reports = new Steadily(() => uplink.sendReports());
    this.#samples = new Steadily(() => uplink.sendSamples());
    this.#pull = new PullLink(this.#core, { ...options, ask: 'plain', schedule: 'manual' });
    this.#core.onWaiting = (what) => (what === 'report' ? this.#reports : this.#samples).poke();
  }

  get counts(): ClientCounts {
    return this.#core.counts;
  }

  onCommand(name: string, handler: CommandHandler): void {
    this.#core.handle(name, handler);
  }

  start(): Promise<void> {
    if (this.#mode !== 'new') return Promise.reject(new Error('a client starts once'));
    this.#mode = 'started';
    return new Promise((resolve, reject) => {
      this.#firstContact = { resolve, reject };
      this.#core.reportAgain();
      this.#reports.resume();
      this.#samples.resume();
      void this.#follow();
    });
  }

  telemetry(values: Readonly<Record<string, MetricValue>>, ts?: number): Promise<Delivery> {
    return this.#core.telemetry(values, ts);
  }

  async stop(): Promise<void> {
    if (this.#mode === 'stopped') return;
    const wasStarted = this.#mode === 'started';
    this.#mode = 'stopped';
    this.#core.beginStop();
    const until = Date.now() + STOP_MS_MAX;
    while (wasStarted && !this.#core.hasNothingToSay && Date.now() < until) {
      // Whether or not they rest after a failure.
      await Promise.race([this.#pull.sendAll(), delay(STOP_MS_MAX)]);
      await delay(STOP_POLL_MS);
    }
    await this.#end(new Error('stopped before the server was reached'));
  }

  #follow(): Promise<void> {
    const { url, token } = this.#options;
    const { executed } = this.#core;
    return followStream({
      url: `${url.replace(/\/+$/, '')}/v1/device/events`,
      token,
      retry: this.#options.reconnect ?? RECONNECT,
      ...(this.#options.fetch && { fetch: this.#options.fetch }),
      place: { get: () => executed.cursor, set: (cursor) => (executed.cursor = cursor) },
      signal: this.#stopped.signal,
      onOpen: () => this.#opened(),
      onBroken: (error) => this.#broken(error),
      onEvent: async (name, data) => {
        // Commands that are too large for the stream wait to be pulled.
        if (name === 'notify') void this.#pull.wakeAnew();
        if (name !== 'command') return;
        // A report is the confirmation: what takes long is reported as running.
        const isOnRecord = await this.#core.take(data, { runningAfterMs: RUNNING_AFTER_MS });
        // Stopping: neither this one nor what comes after it is confirmed.
        if (!isOnRecord) await new Promise((resolve) => this.#stopped.signal.addEventListener('abort', resolve, { once: true }));
      },
    });
  }

  #opened(): void {
    this.#isOpen = true;
    this.#firstContact?.resolve();
    this.#firstContact = undefined;
    this.#core.tell('connected');
  }

  #broken(error: Error): void {
    this.#core.problem(error);
    if (this.#isOpen) this.#core.tell('disconnected');
    this.#isOpen = false;
    if (!(error instanceof StreamRefused && error.status === 401) || this.#firstContact === undefined) return;
    this.#mode = 'stopped';
    void this.#end(new Error('the server refuses the token', { cause: error }));
  }

  async #end(unreached: Error): Promise<void> {
    this.#firstContact?.reject(unreached);
    this.#firstContact = undefined;
    this.#reports.pause();
    this.#samples.pause();
    this.#pull.stop();
    this.#stopped.abort();
    await this.#core.close();
  }
}

const RECONNECT = { minMs: 500, maxMs: 60_000 };
const RUNNING_AFTER_MS = 1_000;
const STOP_MS_MAX = 3_000;
const STOP_POLL_MS = 100;
