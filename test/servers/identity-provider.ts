import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWK, type JWTPayload } from 'jose';

/** A small OpenID Connect provider: its discovery document, its keys, and tokens signed with them. */
type SigningKey = { readonly kid: string; readonly alg: string; readonly privateKey: CryptoKey; readonly publicKey: CryptoKey };

/** Made once: RSA keys take a while. */
let firstKey: Promise<SigningKey> | undefined;

export class IdentityProviderServer {
  readonly issuer: string;
  /** How often its keys were fetched. */
  fetches = 0;
  /** What it answers in place of its documents. */
  mood: 'well' | 'failing' | 'hanging' | 'babbling' | 'somebody else' = 'well';
  /** Put beside its own keys. */
  readonly moreKeys: JWK[] = [];
  readonly #server: Server;
  readonly #keys: SigningKey[] = [];

  private constructor(server: Server) {
    this.#server = server;
    this.issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}/realm`;
  }

  static async start(): Promise<IdentityProviderServer> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const provider = new IdentityProviderServer(server);
    server.on('request', (request, response) => {
      if (provider.mood === 'hanging') return;
      if (provider.mood === 'failing') return void response.writeHead(503).end();
      if (provider.mood === 'babbling') return void response.end('{"keys":'.repeat(1_000));
      void provider.#documentAt(request.url ?? '').then((document) => {
        response.writeHead(document === undefined ? 404 : 200).end(JSON.stringify(document));
      });
    });
    firstKey ??= signingKey('first', 'RS256');
    provider.#keys.push(await firstKey);
    return provider;
  }

  async addKey(kid: string, alg = 'RS256'): Promise<SigningKey> {
    const key = await signingKey(kid, alg);
    this.#keys.unshift(key);
    return key;
  }

  get key(): SigningKey {
    return this.#keys[0]!;
  }

  /** A token of its newest key. */
  async sign(claims: JWTPayload, header: Record<string, unknown> = {}, key: SigningKey = this.key): Promise<string> {
    return new SignJWT(claims).setProtectedHeader({ alg: key.alg, kid: key.kid, ...header }).sign(key.privateKey);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #documentAt(path: string): Promise<unknown> {
    if (path === '/realm/.well-known/openid-configuration') {
      const issuer = this.mood === 'somebody else' ? 'https://id.example.com' : this.issuer;
      return { issuer, jwks_uri: `${this.issuer}/keys` };
    }
    if (path !== '/realm/keys') return undefined;
    this.fetches += 1;
    const keys = this.#keys.map(async ({ kid, alg, publicKey }) => ({ ...(await exportJWK(publicKey)), kid, alg, use: 'sig' }));
    return { keys: [...(await Promise.all(keys)), ...this.moreKeys] };
  }
}

async function signingKey(kid: string, alg: string): Promise<SigningKey> {
  return { kid, alg, ...(await generateKeyPair(alg, { extractable: true })) };
}
