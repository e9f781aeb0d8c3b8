import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import { once } from 'node:events';
import mqtt, { type IClientOptions } from 'mqtt';
import type { Config } from '../broker/config.ts';
import type { DeviceAuth } from '../broker/config-tls.ts';
import { LiveServer, MqttDevice } from './live-server.ts';
import { Authority, type Issued } from './tls-authority.ts';

/** A whole server with TLS, its certificate files, and the clients that tests speak to it with. */
export type Shown = Partial<Pick<Issued, 'cert' | 'key'>>;

export type SecureAnswer = { readonly status: number; readonly body: string; readonly headers: Record<string, unknown> };

export class TlsServer {
  readonly live: LiveServer;
  readonly authority: Authority;
  readonly deviceAuthority: Authority;
  readonly folder: string;

  private constructor(live: LiveServer, authority: Authority, deviceAuthority: Authority, folder: string) {
    this.live = live;
    this.authority = authority;
    this.deviceAuthority = deviceAuthority;
    this.folder = folder;
  }

  static async start(
    options: { deviceAuth?: DeviceAuth; hasCrl?: boolean; config?: Partial<Config>; days?: number } = {},
  ): Promise<TlsServer> {
    const folder = await mkdtemp(join(tmpdir(), 'downlink-tls-'));
    const authority = await Authority.make();
    const deviceAuthority = await Authority.make('Devices CA');
    const file = (name: string): string => join(folder, name);
    const { cert, key } = await authority.server(options.days);
    await writeFile(file('cert.pem'), cert);
    await writeFile(file('key.pem'), key);
    await writeFile(file('devices.pem'), deviceAuthority.pem);
    await writeFile(file('crl.pem'), await deviceAuthority.revoke([]));
    const live = await LiveServer.start({
      tls: {
        enabled: true,
        files: {
          cert: file('cert.pem'),
          key: file('key.pem'),
          clientCa: file('devices.pem'),
          crl: options.hasCrl === true ? file('crl.pem') : undefined,
        },
        mqttsPort: 0,
        httpsPort: 0,
        deviceAuth: options.deviceAuth ?? 'either',
      },
      ...options.config,
    });
    return new TlsServer(live, authority, deviceAuthority, folder);
  }

  get httpsPort(): number {
    return this.live.httpsPort;
  }

  get mqttsPort(): number {
    return this.live.mqttsPort;
  }

  /** Puts a file in the place of another at once, as those who care do. */
  async replace(name: string, text: string): Promise<void> {
    await writeFile(join(this.folder, `${name}.new`), text);
    await rename(join(this.folder, `${name}.new`), join(this.folder, name));
  }

  /** Counted so far, by the name and labels as `/metrics` shows them. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.live.url}/metrics`)).text();
    const line = text.split('\n').find((line) => line.startsWith(`${name} `));
    return Number(line?.split(' ').at(-1) ?? 0);
  }

  /** Waits until so many changes of the files were taken, or refused. */
  async reloaded(count: number, outcome: 'taken' | 'refused' = 'taken'): Promise<void> {
    while ((await this.metric(`downlink_tls_reloads_total{outcome="${outcome}"}`)) < count) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Rejects with the return code of CONNACK as `code`, or when the connection ends before. */
  async connect(deviceId: string, options: IClientOptions & Shown = {}): Promise<MqttDevice> {
    const client = mqtt.connect(`mqtts://localhost:${this.mqttsPort}`, {
      clientId: deviceId,
      ca: this.authority.pem,
      reconnectPeriod: 0,
      ...options,
    });
    await new Promise<void>((resolve, reject) => {
      client.once('connect', () => resolve());
      client.once('error', reject);
      client.once('close', () => reject(new Error('closed')));
    });
    return new MqttDevice(deviceId, client);
  }

  async request(path: string, options: RequestOptions & Shown & { body?: string } = {}): Promise<SecureAnswer> {
    const { body: sent, ...more } = options;
    const request = httpsRequest({
      host: 'localhost',
      port: this.httpsPort,
      path,
      ca: this.authority.pem,
      agent: false,
      ...more,
    });
    request.end(sent);
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    let body = '';
    for await (const chunk of response.setEncoding('utf8')) body += String(chunk);
    return { status: response.statusCode ?? 0, body, headers: response.headers };
  }

  async close(): Promise<void> {
    await this.live.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}
