import type { MetricValue } from '../../devices/telemetry.ts';
import { delay } from './backoff.ts';
import type { ClientCounts, ClientOptions, CommandHandler, Delivery, DeviceClient } from './device-client.ts';
import { DeviceCore } from './device-core.ts';
import { MqttLink, type MqttLinkOptions } from './mqtt-link.ts';
import { PullLink } from './pull-link.ts';
import { requireAddress } from './server-address.ts';

export type PushClientOptions = ClientOptions &
  Omit<MqttLinkOptions, 'subscribe'> & {
    /** Notify-then-pull: come and pull by HTTP when the server says that something waits. */
    readonly notify?: NotifyOptions;
  };

export type NotifyOptions = {
  /** `http://host:8080`. */
  readonly url: string;
  /** False: nothing is pushed, all is pulled. Otherwise only what the server does not push, such as commands over the device's `limits.pushBytes`. */
  readonly commands?: boolean;
  /** Octets of an answer, at most. */
  readonly maxBytes?: number;
  /** Another way to send, for tests and simulated faults. */
  readonly fetch?: typeof fetch;
};

/** A device that stays connected, over MQTT 3.1.1. Commands come the moment they are issued, or the word to pull them does. */
export class PushClient implements DeviceClient {
  readonly #options: PushClientOptions;
  readonly #core: DeviceCore;
  readonly #link: MqttLink;
  readonly #pull: PullLink | undefined;
  #mode: 'new' | 'started' | 'stopped' = 'new';
  #firstContact: { resolve: () => void; reject: (error: Error) => void } | undefined;

  /** Throws a TypeError when the server's address is missing, or none. */
  constructor(options: PushClientOptions) {
    const { url, notify, token } = options;
    requireAddress('PushClient', 'url', url, 'mqtt');
    if (notify !== undefined) requireAddress('PushClient', 'notify.url', notify.url, 'http');
    this.#options = options;
    this.#core = new DeviceCore(options);
    const subscribe = [...(notify?.commands === false ? [] : ['commands' as const]), ...(notify ? ['notify' as const] : [])];
    this.#link = new MqttLink(
      this.#core,
      { ...options, subscribe },
      {
        online: () => this.#online(),
        offline: () => this.#core.tell('disconnected'),
        tokenRefused: (error) => this.#tokenRefused(error),
        // The server says it again to each new connection.
        notified: () => void this.#pull?.wakeAnew(),
      },
    );
    this.#pull = notify && new PullLink(this.#core, { ...notify, token, ask: 'conditional', schedule: 'manual' });
    this.#core.onWaiting = () => this.#link.pump();
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
      this.#link.open();
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
    while (wasStarted && !this.#core.hasNothingToSay && Date.now() < until) await delay(STOP_POLL_MS);
    this.#pull?.stop();
    this.#firstContact?.reject(new Error('stopped before the server was reached'));
    await this.#link.close(!this.#link.isOnline || !this.#core.hasNothingToSay);
    await this.#core.close();
  }

  #online(): void {
    this.#firstContact?.resolve();
    this.#firstContact = undefined;
    this.#core.tell('connected');
  }

  #tokenRefused(cause: Error): void {
    if (this.#firstContact === undefined) return;
    this.#firstContact.reject(new Error(`the server refuses the token of ${this.#options.deviceId}`, { cause }));
    this.#firstContact = undefined;
    this.#mode = 'stopped';
    void this.#link.close(true).then(() => this.#core.close());
  }
}

const STOP_MS_MAX = 3_000;
const STOP_POLL_MS = 20;
