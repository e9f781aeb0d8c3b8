import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AttackedServer } from '../healthy-device.ts';
import { Authority } from '../tls-authority.ts';

/** A server under attack that has ports with TLS as well. */
export class AttackedTls {
  readonly server: AttackedServer;
  /** PEM: the authority to trust. */
  readonly ca: string;
  readonly #folder: string;

  private constructor(server: AttackedServer, ca: string, folder: string) {
    this.server = server;
    this.ca = ca;
    this.#folder = folder;
  }

  /** `env` sets bounds and the like. */
  static async start(env: Readonly<Record<string, string>> = {}): Promise<AttackedTls> {
    const folder = await mkdtemp(join(tmpdir(), 'downlink-attacks-tls-'));
    const authority = await Authority.make();
    const { cert, key } = await authority.server();
    const files = { cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem'), clientCa: undefined, crl: undefined };
    await writeFile(files.cert, cert);
    await writeFile(files.key, key);
    const tls = { enabled: true, files, mqttsPort: 0, httpsPort: 0, deviceAuth: 'either' } as const;
    const server = await AttackedServer.start({ DOWNLINK_CONNECTS_PER_SECOND_MAX: '1000000', ...env }, { tls });
    return new AttackedTls(server, authority.pem, folder);
  }

  async close(): Promise<void> {
    await this.server.close();
    await rm(this.#folder, { recursive: true, force: true });
  }
}
