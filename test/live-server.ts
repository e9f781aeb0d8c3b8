import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import type { Config } from '../broker/config.ts';
import type { Clock } from '../devices/clock.ts';
import { startServer, type Server } from '../server.ts';

/** A whole server on free ports with a folder of its own, and the two clients that tests speak to it with: HTTP and MQTT. */
export const ADMIN_KEY = 'test-admin-key-0123456789';

type Starter = (config: Config, clock: Clock) => Promise<Server>;

export type Answer<T = Record<string, unknown>> = { readonly status: number; readonly headers: Headers; readonly body: T };

/** Of a server on this data folder, as tests want one. */
export function configOn(dataDir: string, overrides: Partial<Config> = {}): Config {
  return {
    host: '127.0.0.1',
    mqttPort: 0,
    httpPort: 0,
    dataDir,
    influx: { enabled: false },
    tls: { enabled: false },
    oidc: { enabled: false },
    adminKey: ADMIN_KEY,
    logLevel: 'silent',
    journalBytesMax: 64 * 1024 * 1024,
    bounds: DEFAULT_BOUNDS,
    trustedProxies: [],
    ...overrides,
  };
}

export class LiveServer {
  readonly dataDir: string;
  readonly #config: Config;
  readonly #clock: Clock;
  readonly #starter: Starter;
  #server: Server;

  private constructor(dataDir: string, config: Config, clock: Clock, starter: Starter, server: Server) {
    this.dataDir = dataDir;
    this.#config = config;
    this.#clock = clock;
    this.#starter = starter;
    this.#server = server;
  }

  /** `starter` may start it in another process. */
  static async start(
    overrides: Partial<Config> = {},
    clock: Clock = { now: () => Date.now() },
    starter: Starter = startServer,
  ): Promise<LiveServer> {
    const dataDir = await mkdtemp(join(tmpdir(), 'downlink-test-'));
    const config = configOn(dataDir, overrides);
    return new LiveServer(dataDir, config, clock, starter, await starter(config, clock));
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.httpPort}`;
  }

  get mqttPort(): number {
    return this.#server.mqttPort ?? 0;
  }

  get httpsPort(): number {
    return this.#server.httpsPort ?? 0;
  }

  get mqttsPort(): number {
    return this.#server.mqttsPort ?? 0;
  }

  /** Stops in good order, lets `meanwhile` happen, and starts anew on the same folder. */
  async restart(meanwhile: () => void = () => {}): Promise<void> {
    await this.#server.close();
    meanwhile();
    this.#server = await this.#starter(this.#config, this.#clock);
  }

  /** Stops in good order; the folder stays until close. */
  async stop(): Promise<void> {
    await this.#server.close();
  }

  async close(): Promise<void> {
    await this.#server.close();
    await rm(this.dataDir, { recursive: true, force: true });
  }

  /** One request as `credential` (the admin key by default); a body that is not a string is sent as JSON. */
  async request<T = Record<string, unknown>>(
    method: string,
    path: string,
    options: { body?: unknown; credential?: string; headers?: Record<string, string> } = {},
  ): Promise<Answer<T>> {
    const { body, credential = ADMIN_KEY } = options;
    const response = await fetch(this.url + path, {
      method,
      headers: {
        authorization: `Bearer ${credential}`,
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...options.headers,
      },
      ...(body !== undefined && { body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: (text === '' ? {} : JSON.parse(text)) as T };
  }

  /** Registers a device and gives its token. */
  async createDevice(id: string, more: Record<string, unknown> = {}): Promise<string> {
    const { status, body } = await this.request<{ token: string }>('POST', '/v1/devices', { body: { id, ...more } });
    if (status !== 201) throw new Error(`device ${id}: ${status} ${JSON.stringify(body)}`);
    return body.token;
  }

  /** Issues a command and gives it as answered. */
  async issue(deviceId: string, command: Record<string, unknown>, path = ''): Promise<CommandView> {
    const { status, body } = await this.request<CommandView>('POST', `/v1/devices/${deviceId}/commands${path}`, {
      body: command,
    });
    if (status !== 201 && status !== 202) throw new Error(`command: ${status} ${JSON.stringify(body)}`);
    return body;
  }

  async command(id: string): Promise<CommandView> {
    return (await this.request<CommandView>('GET', `/v1/commands/${id}`)).body;
  }

  /** Polls the command until it is in `state`; the test's own time-out is the limit. */
  async commandIn(id: string, state: string): Promise<CommandView> {
    for (;;) {
      const command = await this.command(id);
      if (command.state === state) return command;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** An MQTT connection as the device, connected. */
  async connect(deviceId: string, token: string, options: IClientOptions = {}): Promise<MqttDevice> {
    const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${this.mqttPort}`, {
      clientId: deviceId,
      username: deviceId,
      password: token,
      reconnectPeriod: 0,
      ...options,
    });
    return new MqttDevice(deviceId, client);
  }
}

/** A clock that stands still until it is moved. */
export class TestClock implements Clock {
  #now: number;

  constructor(now: number) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  advance(ms: number): void {
    this.#now += ms;
  }
}

export type CommandView = {
  readonly id: string;
  readonly state: string;
  readonly attempts: number;
  readonly transport?: string;
  readonly result?: unknown;
  readonly error?: string;
  readonly late?: boolean;
  readonly supersededBy?: string;
  readonly deliveredAt?: string;
  readonly finishedAt?: string;
};

export type Message = { readonly topic: string; readonly body: Record<string, unknown> };

/** A device on MQTT whose messages are waited for one by one. */
export class MqttDevice {
  readonly id: string;
  readonly client: MqttClient;
  readonly #messages: Message[] = [];
  #arrived: () => void = () => {};

  constructor(id: string, client: MqttClient) {
    this.id = id;
    this.client = client;
    client.on('message', (topic, payload) => {
      this.#messages.push({ topic, body: JSON.parse(payload.toString()) as Record<string, unknown> });
      this.#arrived();
    });
    client.on('error', () => {});
  }

  async subscribe(kind: 'commands' | 'errors' | 'notify', qos: 0 | 1 | 2 = 1): Promise<void> {
    await this.client.subscribeAsync(`devices/${this.id}/${kind}`, { qos });
  }

  async publish(kind: string, message: unknown, qos: 0 | 1 | 2 = 1): Promise<void> {
    const payload = typeof message === 'string' || Buffer.isBuffer(message) ? message : JSON.stringify(message);
    await this.client.publishAsync(`devices/${this.id}/${kind}`, payload, { qos });
  }

  /** The next message that came, in the order of arrival. */
  async next(): Promise<Message> {
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) return message;
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
  }

  /** Messages that came and were not yet asked for. */
  get pending(): number {
    return this.#messages.length;
  }

  async closed(): Promise<void> {
    if (!this.client.connected) return;
    await new Promise<void>((resolve) => this.client.once('close', () => resolve()));
  }

  /** Goes away without a word, as a device does that loses its network. */
  vanish(): void {
    this.client.stream.destroy();
  }

  async end(): Promise<void> {
    await this.client.endAsync(true);
  }
}
