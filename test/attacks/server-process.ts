import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Config } from '../../broker/config.ts';
import type { Server } from '../../server.ts';

/** The compiled server as a process of its own: what an attacker makes it do costs neither the attacker nor whoever measures. */
const PROGRAM = join(import.meta.dirname, '../../dist/main.js');
const START_MS_MAX = 60_000;
const MIB = 1024 ** 2;
/** Answers each message with the memory in use, once what is garbage is gone. */
const PROBE =
  'data:text/javascript,process.on("message",(m)=>{if(m==="memory"){gc();gc();process.send(process.memoryUsage())}});process.channel.unref()';
/** For a server whose time is moved. */
export const MOVED_CLOCK = {
  NODE_OPTIONS: `--import ${pathToFileURL(join(import.meta.dirname, '../../dist/test/servers/moved-clock.js')).href}`,
};

export class ServerProcess {
  readonly #env: Readonly<Record<string, string>>;
  #child: ChildProcess | undefined;
  #printed: string[] = [];

  constructor(env: Readonly<Record<string, string>> = {}) {
    this.#env = env;
    process.once('exit', () => this.#child?.kill('SIGKILL'));
  }

  /** All that its runs printed: the banner, then log lines. */
  get printed(): string {
    return this.#printed.join('');
  }

  get isRunning(): boolean {
    return this.#child?.exitCode === null && this.#child.signalCode === null;
  }

  /** MiB of the heap in use after a collection, and of the process. */
  async memory(): Promise<{ heap: number; resident: number }> {
    const child = this.#child;
    if (child === undefined || !this.isRunning) throw new Error(`the server is gone: ${this.printed.slice(-2_000)}`);
    const answer = once(child, 'message') as Promise<[NodeJS.MemoryUsage]>;
    child.send('memory');
    const [{ heapUsed, arrayBuffers, rss }] = await answer;
    return { heap: (heapUsed + arrayBuffers) / MIB, resident: rss / MIB };
  }

  /** Moves its clocks on, where it was made with MOVED_CLOCK; what it does by the hour has begun when this resolves. */
  async advance(ms: number): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.isRunning) throw new Error(`the server is gone: ${this.printed.slice(-2_000)}`);
    const moved = once(child, 'message');
    child.send({ advanceMs: ms });
    await moved;
  }

  /** What `LiveServer.start` takes in place of `startServer`. */
  readonly start = async (config: Config): Promise<Server> => {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('DOWNLINK_'));
    const child = spawn(process.execPath, ['--expose-gc', '--import', PROBE, PROGRAM], {
      env: { ...Object.fromEntries(inherited), ...environmentOf(config), ...this.#env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    this.#child = child;
    const exited = once(child, 'exit');
    let banner = '';
    const ready = new Promise<string>((resolve, reject) => {
      const take = (chunk: Buffer): void => {
        this.#printed.push(chunk.toString());
        if (banner === 'read') return;
        banner += chunk.toString();
        if (!banner.includes('\n  Next: ')) return;
        resolve(banner);
        banner = 'read';
      };
      child.stdout?.on('data', take);
      child.stderr?.on('data', take);
      child.once('exit', () => reject(new Error(`the server did not start: ${banner}`)));
      setTimeout(() => reject(new Error(`the server was not ready in time: ${banner}`)), START_MS_MAX).unref();
    });
    const said = await ready;
    const portOf = (scheme: string): number | undefined => {
      const port = new RegExp(`\\s${scheme}://[^:]+:(\\d+)`).exec(said)?.[1];
      return port === undefined ? undefined : Number(port);
    };
    let closing: Promise<void> | undefined;
    return {
      mqttPort: portOf('mqtt'),
      httpPort: portOf('http'),
      mqttsPort: portOf('mqtts'),
      httpsPort: portOf('https'),
      adminKey: config.adminKey,
      isFirstStart: false,
      openCommands: 0,
      recovered: undefined,
      close: () => {
        if (this.isRunning) child.kill('SIGTERM');
        return (closing ??= exited.then(() => {}));
      },
    };
  };
}

function environmentOf({ host, mqttPort, httpPort, dataDir, influx, tls, oidc, adminKey, logLevel, journalBytesMax }: Config) {
  return {
    DOWNLINK_HOST: host,
    DOWNLINK_MQTT_PORT: String(mqttPort),
    DOWNLINK_HTTP_PORT: String(httpPort),
    DOWNLINK_DATA_DIR: dataDir,
    DOWNLINK_ADMIN_KEY: adminKey,
    DOWNLINK_LOG_LEVEL: logLevel,
    DOWNLINK_JOURNAL_MAX_BYTES: String(journalBytesMax),
    ...(tls.enabled && {
      DOWNLINK_TLS_CERT_FILE: tls.files.cert,
      DOWNLINK_TLS_KEY_FILE: tls.files.key,
      ...(tls.files.clientCa !== undefined && { DOWNLINK_TLS_CLIENT_CA_FILE: tls.files.clientCa }),
      ...(tls.files.crl !== undefined && { DOWNLINK_TLS_CRL_FILE: tls.files.crl }),
      DOWNLINK_MQTTS_PORT: String(tls.mqttsPort),
      DOWNLINK_HTTPS_PORT: String(tls.httpsPort),
      DOWNLINK_DEVICE_AUTH: tls.deviceAuth,
    }),
    ...(oidc.enabled && {
      DOWNLINK_OIDC_ISSUER: oidc.issuer,
      DOWNLINK_OIDC_AUDIENCE: oidc.audience,
      DOWNLINK_OIDC_ROLE_CLAIM: oidc.roleClaim,
    }),
    ...(influx.enabled && { DOWNLINK_INFLUX_URL: influx.url, DOWNLINK_INFLUX_DATABASE: influx.database }),
  };
}
