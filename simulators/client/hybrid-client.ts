import type { MetricValue } from '../../devices/telemetry.ts';
import { delay } from './backoff.ts';
import type { ClientCounts, ClientOptions, CommandHandler, Delivery, DeviceClient } from './device-client.ts';
import { DeviceCore } from './device-core.ts';
import { MqttLink, type MqttLinkOptions } from './mqtt-link.ts';
import { PullLink, type PullLinkOptions } from './pull-link.ts';
import type { Contact } from './pull-requests.ts';
import { requireAddress } from './server-address.ts';

export type HybridClientOptions = ClientOptions &
  Pick<MqttLinkOptions, 'deviceId' | 'token' | 'connect' | 'reconnect'> & {
    /** Where MQTT is: `mqtt://host:1883`, `mqtts://…`, `ws://host:8080/mqtt`, `wss://…`. */
    readonly mqttUrl: string;
    /** Where HTTP is: `http://host:8080`. */
    readonly url: string;
    /** The longest time until a dead connection is noticed and commands are pulled instead; 30 unless said otherwise, 4 at the least. */
    readonly keepaliveSeconds?: number;
    /** How commands are pulled while MQTT cannot be had; one long poll after the other unless said otherwise. */
    readonly pull?: Partial<Omit<PullLinkOptions, 'url' | 'token' | 'fetch'>>;
    /** Another way to send, for tests and simulated faults. */
    readonly fetch?: typeof fetch;
    /** TLS and the like, as the mqtt package names them. */
    readonly mqtt?: Omit<NonNullable<MqttLinkOptions['mqtt']>, 'keepalive'>;
  };

/**
 * A device that is pushed to over MQTT, and pulls over HTTP while MQTT cannot be had. The MQTT connection is tried again all the while, with back-off and jitter;
 * as soon as it is there, pulling ends. Both ways share the record of what was carried out and all that waits to be sent, so that
 * nothing is lost or done twice when it changes over.
 */
export class HybridClient implements DeviceClient {
  readonly #options: HybridClientOptions;
  readonly #core: DeviceCore;
  readonly #push: MqttLink;
  readonly #pull: PullLink;
  readonly #keepaliveSeconds: number;
  #mode: 'new' | 'started' | 'stopped' = 'new';
  #fallBack: NodeJS.Timeout | undefined;
  #firstContact: { resolve: () => void; reject: (error: Error) => void } | undefined;

  /** Throws a TypeError when one of the server's addresses is missing, or none. */
  constructor(options: HybridClientOptions) {
    const { mqttUrl, url, token, fetch, pull = {}, mqtt = {} } = options;
    requireAddress('HybridClient', 'mqttUrl', mqttUrl, 'mqtt');
    requireAddress('HybridClient', 'url', url, 'http');
    const { ask = 'long-poll', schedule = ask === 'long-poll' ? 'always' : 'server' } = pull;
    this.#options = options;
    this.#keepaliveSeconds = Math.max(KEEPALIVE_SECONDS_MIN, options.keepaliveSeconds ?? KEEPALIVE_SECONDS_DEFAULT);
    this.#core = new DeviceCore(options);
    this.#push = new MqttLink(
      this.#core,
      {
        ...options,
        url: mqttUrl,
        subscribe: ['commands', 'notify'],
        // A dead connection is noticed after one and a half of it, so three quarters of the whole; the rest is for the try to get another.
        mqtt: { ...mqtt, keepalive: Math.floor(this.#keepaliveSeconds / 2) },
      },
      {
        online: () => this.#online(),
        offline: () => this.#offline(),
        tokenRefused: (error) => this.#tokenRefused(error),
        notified: () => void this.#pull.wakeAnew(),
      },
    );
    this.#pull = new PullLink(this.#core, { ...pull, ask, schedule, url, token, ...(fetch && { fetch }) }, (contact) =>
      this.#pulled(contact),
    );
    this.#core.onWaiting = (what) => {
      if (this.#push.isOnline) this.#push.pump();
      else if (this.#pull.isStarted) this.#pull.send(what);
    };
  }

  get counts(): ClientCounts {
    return this.#core.counts;
  }

  /** The way that commands come by now; undefined before the first, and for the moments between the two. */
  get way(): 'push' | 'pull' | undefined {
    if (this.#push.isOnline) return 'push';
    return this.#pull.isStarted ? 'pull' : undefined;
  }

  onCommand(name: string, handler: CommandHandler): void {
    this.#core.handle(name, handler);
  }

  /** Resolves when the server was reached by either way. */
  start(): Promise<void> {
    if (this.#mode !== 'new') return Promise.reject(new Error('a client starts once'));
    this.#mode = 'started';
    return new Promise((resolve, reject) => {
      this.#firstContact = { resolve, reject };
      this.#core.reportAgain();
      this.#push.open();
      this.#fallBackSoon();
    });
  }

  telemetry(values: Readonly<Record<string, MetricValue>>, ts?: number): Promise<Delivery> {
    return this.#core.telemetry(values, ts);
  }

  async stop(): Promise<void> {
    if (this.#mode === 'stopped') return;
    const wasStarted = this.#mode === 'started';
    this.#mode = 'stopped';
    clearTimeout(this.#fallBack);
    this.#core.beginStop();
    const until = Date.now() + STOP_MS_MAX;
    while (wasStarted && !this.#core.hasNothingToSay && Date.now() < until) {
      if (!this.#push.isOnline) await Promise.race([this.#pull.sendAll(), delay(STOP_MS_MAX)]);
      await delay(STOP_POLL_MS);
    }
    await this.#end(new Error('stopped before the server was reached'));
  }

  #online(): void {
    clearTimeout(this.#fallBack);
    const wasPulling = this.#pull.isStarted;
    // A long poll that is parked goes on to its end: what it brings counts.
    this.#pull.pause();
    this.#reached();
    this.#core.tell('connected');
    if (wasPulling) this.#core.tell('switched', 'push');
  }

  #offline(): void {
    this.#core.tell('disconnected');
    this.#fallBackSoon();
  }

  /** A connection that was only cut is there again before. */
  #fallBackSoon(): void {
    if (this.#mode !== 'started') return;
    clearTimeout(this.#fallBack);
    this.#fallBack = setTimeout(
      () => {
        this.#core.tell('switched', 'pull');
        void this.#pull.start();
      },
      Math.min(FALL_BACK_MS_MAX, (this.#keepaliveSeconds * 1_000) / 4),
    );
  }

  #pulled({ status }: Contact): void {
    if (status === 401) this.#tokenRefused(new Error('by HTTP'));
    else if (status > 0 && status < 400) this.#reached();
  }

  #reached(): void {
    this.#firstContact?.resolve();
    this.#firstContact = undefined;
  }

  #tokenRefused(cause: Error): void {
    if (this.#firstContact === undefined) return;
    this.#mode = 'stopped';
    void this.#end(new Error(`the server refuses the token of ${this.#options.deviceId}`, { cause }));
  }

  async #end(unreached: Error): Promise<void> {
    clearTimeout(this.#fallBack);
    this.#firstContact?.reject(unreached);
    this.#firstContact = undefined;
    this.#pull.stop();
    await this.#push.close(!this.#push.isOnline || !this.#core.hasNothingToSay);
    await this.#core.close();
  }
}

const KEEPALIVE_SECONDS_DEFAULT = 30;
const KEEPALIVE_SECONDS_MIN = 4;
const FALL_BACK_MS_MAX = 5_000;
const STOP_MS_MAX = 3_000;
const STOP_POLL_MS = 20;
