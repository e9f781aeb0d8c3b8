import { createHmac } from 'node:crypto';
import { exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT, type JWTPayload } from 'jose';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ConfigError, readConfig } from '../broker/config.ts';
import { expectProblem } from './api-support.ts';
import { LiveServer, TestClock, type Answer } from './live-server.ts';
import { IdentityProviderServer } from './servers/identity-provider.ts';

/** Tokens of an identity provider as operators' credentials: which count, and which come to nothing. */
const START = Date.parse('2026-05-01T12:00:00Z');
const NOW = START / 1_000;
const AUDIENCE = 'downlink';

let clock: TestClock;
let provider: IdentityProviderServer;
let server: LiveServer;

async function start(roleClaim = 'role'): Promise<void> {
  clock = new TestClock(START);
  provider = await IdentityProviderServer.start();
  server = await LiveServer.start({ oidc: { enabled: true, issuer: provider.issuer, audience: AUDIENCE, roleClaim } }, clock);
}

beforeEach(() => start());

afterEach(async () => {
  await server.close();
  await provider.close();
});

const claims = (more: Record<string, unknown> = {}): JWTPayload => ({
  iss: provider.issuer,
  aud: AUDIENCE,
  sub: 'ada',
  exp: NOW + 300,
  role: 'viewer',
  ...more,
});

const ask = (credential: string, method = 'GET', path = '/v1/devices', body?: unknown): Promise<Answer> =>
  server.request(method, path, { credential, ...(body !== undefined && { body }) });

const detailOf = (answer: Answer): unknown => answer.body['detail'];

describe('a token that counts', () => {
  test('lets its subject in with the role it names, and its deeds are on record', async () => {
    const viewer = await provider.sign(claims());
    expect((await ask(viewer)).status).toBe(200);
    expectProblem(await ask(viewer, 'POST', '/v1/devices', { id: 'd' }), 'forbidden');
    const admin = await provider.sign(claims({ sub: 'grace', name: 'Grace', role: 'admin' }));
    expect((await ask(admin, 'POST', '/v1/devices', { id: 'd' })).status).toBe(201);
    const { body } = await server.request<{ entries: unknown[] }>('GET', '/v1/audit?actor=oidc:grace');
    expect(body.entries).toMatchObject([
      { action: 'device.create', target: 'd', actor: { kind: 'oidc', id: 'oidc:grace', name: 'Grace' } },
    ]);
  });

  test('may name us among other audiences, and the highest of several roles counts', async () => {
    const token = await provider.sign(claims({ aud: ['chat', AUDIENCE], role: ['viewer', 'gardener', 'admin'] }));
    expect((await ask(token, 'POST', '/v1/devices', { id: 'd' })).status).toBe(201);
  });

  test.each(['PS256', 'ES256', 'ES384', 'EdDSA'])('may be signed by %s', async (alg) => {
    await provider.addKey('another', alg);
    expect((await ask(await provider.sign(claims()))).status).toBe(200);
  });

  test('works beside keys, which have nothing to do with the provider', async () => {
    provider.mood = 'failing';
    expect((await server.request('GET', '/v1/devices')).status).toBe(200);
    expect(provider.fetches).toBe(0);
  });

  test('ends a live stream that it opened with its own end', async () => {
    const token = await provider.sign(claims());
    const response = await fetch(`${server.url}/v1/stream`, { headers: { authorization: `Bearer ${token}` } });
    expect(response.status).toBe(200);
    clock.advance(331_000);
    expect(await response.text()).toContain('the token has expired');
  });
});

describe('the claim of the role', () => {
  test.each<[string, string, JWTPayload, number]>([
    ['a path', 'realm_access.roles', { realm_access: { roles: ['operator'] } }, 200],
    ['a name with dots', 'https://example.com/role', { 'https://example.com/role': 'viewer' }, 200],
    ['text with spaces', 'scope', { scope: 'openid viewer' }, 200],
    ['a role that is none', 'role', { role: 'root' }, 403],
    ['no text', 'role', { role: 7 }, 403],
    ['missing', 'groups', {}, 403],
    ['a path that ends early', 'role.name', {}, 403],
    ["of every object's own", 'constructor.name', {}, 403],
  ])('%s', async (_, roleClaim, more, status) => {
    await server.close();
    await provider.close();
    await start(roleClaim);
    expect((await ask(await provider.sign(claims(more)))).status).toBe(status);
  });
});

describe('a token is refused', () => {
  test.each<[string, () => Record<string, unknown>, RegExp]>([
    ['once it has expired', () => ({ exp: NOW - 31 }), /expired/],
    ['without an end', () => ({ exp: undefined }), /exp/],
    ['before its time', () => ({ nbf: NOW + 31 }), /not valid yet/],
    ['of another issuer', () => ({ iss: 'https://id.example.com' }), /iss/],
    ['of an issuer that only begins like it', () => ({ iss: `${provider.issuer}/` }), /iss/],
    ['without an issuer', () => ({ iss: undefined }), /iss/],
    ['for another audience', () => ({ aud: 'chat' }), /aud/],
    ['without an audience', () => ({ aud: undefined }), /aud/],
    ['without a subject', () => ({ sub: undefined }), /sub/],
    ['with an empty subject', () => ({ sub: '' }), /subject/],
    ['with a newline in its subject', () => ({ sub: 'a\nb' }), /subject/],
  ])('%s', async (_, more, detail) => {
    const answer = await ask(await provider.sign(claims(more())));
    expectProblem(answer, 'unauthorized');
    expect(detailOf(answer)).toMatch(detail);
  });

  test('with alg none', async () => {
    const token = new UnsecuredJWT(claims()).encode();
    expectProblem(await ask(token), 'unauthorized');
    for (const alg of ['None', 'NONE', 'nOnE', '']) {
      const header = Buffer.from(JSON.stringify({ alg, kid: 'first' })).toString('base64url');
      expectProblem(await ask(`${header}.${token.split('.')[1]}.`), 'unauthorized');
    }
  });

  test('with HS256 and the public key as the secret', async () => {
    for (const secret of [await exportSPKI(provider.key.publicKey), (await exportSPKI(provider.key.publicKey)).trim()]) {
      const header = Buffer.from(JSON.stringify({ alg: 'HS256', kid: 'first' })).toString('base64url');
      const signed = `${header}.${Buffer.from(JSON.stringify(claims({ role: 'admin' }))).toString('base64url')}`;
      const answer = await ask(`${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`);
      expectProblem(answer, 'unauthorized');
      expect(detailOf(answer)).toMatch(/algorithm/);
    }
  });

  test('with HS256, even if the provider gives its shared secret away among its keys', async () => {
    const secret = Buffer.from('0123456789abcdef0123456789abcdef');
    provider.moreKeys.push({ kty: 'oct', kid: 'shared', alg: 'HS256', k: secret.toString('base64url') });
    const token = await new SignJWT(claims()).setProtectedHeader({ alg: 'HS256', kid: 'shared' }).sign(secret);
    expectProblem(await ask(token), 'unauthorized');
  });

  test('with a key of its own in the header', async () => {
    const own = { kid: 'first', alg: 'RS256', ...(await generateKeyPair('RS256', { extractable: true })) };
    const token = await provider.sign(claims(), { jku: 'http://127.0.0.1:9/keys', x5u: 'http://127.0.0.1:9/x' }, own);
    const answer = await ask(token);
    expectProblem(answer, 'unauthorized');
    expect(detailOf(answer)).toMatch(/signature/);
  });

  test('with an octet changed anywhere', async () => {
    const token = await provider.sign(claims());
    for (let at = 0; at < token.length - 1; at += 7) {
      const changed = token[at] === 'A' ? 'B' : 'A';
      if (token[at] === '.') continue;
      expectProblem(await ask(token.slice(0, at) + changed + token.slice(at + 1)), 'unauthorized');
    }
  });

  test('when it is huge, and nothing of it is told', async () => {
    const token = await provider.sign(claims({ filler: 'x'.repeat(7_000) }));
    const answer = await ask(token);
    expectProblem(answer, 'unauthorized');
    expect(JSON.stringify(answer.body).length).toBeLessThan(500);
    expectProblem(await ask(`${'a'.repeat(3_000)}.${'b'.repeat(3_000)}.c`), 'unauthorized');
    expect(provider.fetches).toBe(0);
  });

  test('by the routes of devices and of provisioning', async () => {
    const token = await provider.sign(claims({ role: 'admin' }));
    expectProblem(await ask(token, 'GET', '/v1/device/commands'), 'forbidden');
    expectProblem(await ask(token, 'POST', '/v1/provision', { id: 'd' }), 'forbidden');
  });
});

describe("the provider's keys", () => {
  test('are fetched once for many tokens, and again for a key that is new', async () => {
    const tokens = await Promise.all(Array.from({ length: 20 }, (_, i) => provider.sign(claims({ sub: `s${i}` }))));
    const answers = await Promise.all(tokens.map((token) => ask(token)));
    expect(answers.every(({ status }) => status === 200)).toBe(true);
    expect(provider.fetches).toBe(1);
    await provider.addKey('second');
    clock.advance(30_000);
    expect((await ask(await provider.sign(claims()))).status).toBe(200);
    expect(provider.fetches).toBe(2);
  });

  test('are not fetched for each key id that somebody makes up', async () => {
    await ask(await provider.sign(claims()));
    for (let i = 0; i < 20; i += 1) {
      const answer = await ask(await provider.sign(claims(), { kid: `made-up-${i}` }));
      expectProblem(answer, 'unauthorized');
      expect(detailOf(answer)).toMatch(/key/);
    }
    expect(provider.fetches).toBe(1);
  });

  test('that were had go on for a day without the provider', async () => {
    await ask(await provider.sign(claims()));
    provider.mood = 'failing';
    clock.advance(23 * 3_600_000);
    const later = { exp: NOW + 48 * 3_600 };
    expect((await ask(await provider.sign(claims(later)))).status).toBe(200);
    clock.advance(2 * 3_600_000);
    expectProblem(await ask(await provider.sign(claims(later))), 'identity_provider_unavailable');
  });

  test.each(['failing', 'babbling', 'somebody else'] as const)(
    'of a provider that is %s are told to be missing',
    async (mood) => {
      provider.mood = mood;
      const answer = await ask(await provider.sign(claims()));
      expectProblem(answer, 'identity_provider_unavailable');
      expect(answer.headers.get('retry-after')).toBe('5');
      expect((await server.request('GET', '/v1/devices')).status).toBe(200);
      provider.mood = 'well';
      clock.advance(5_000);
      expect((await ask(await provider.sign(claims()))).status).toBe(200);
    },
  );

  test('of a provider that does not answer hold nothing else up, a start neither', async () => {
    provider.mood = 'hanging';
    await server.restart();
    const waiting = ask(await provider.sign(claims()));
    expect((await server.request('GET', '/v1/devices')).status).toBe(200);
    const answer = await waiting;
    expectProblem(answer, 'identity_provider_unavailable');
    expect(detailOf(answer)).toMatch(/does not answer/);
  });
});

describe('the configuration', () => {
  const issuer = { DOWNLINK_OIDC_ISSUER: 'https://id.example.com/realm' };

  test('takes an issuer and an audience', () => {
    expect(readConfig({ ...issuer, DOWNLINK_OIDC_AUDIENCE: 'x' }).oidc).toEqual({
      enabled: true,
      issuer: 'https://id.example.com/realm',
      audience: 'x',
      roleClaim: 'role',
    });
    expect(readConfig({}).oidc).toEqual({ enabled: false });
  });

  test.each<[string, Record<string, string>, string]>([
    ['an issuer without an audience', issuer, 'DOWNLINK_OIDC_AUDIENCE'],
    ['an audience without an issuer', { DOWNLINK_OIDC_AUDIENCE: 'x' }, 'DOWNLINK_OIDC_AUDIENCE'],
    ['plain http to another machine', { DOWNLINK_OIDC_ISSUER: 'http://id.example.com' }, 'DOWNLINK_OIDC_ISSUER'],
    ['an issuer that is no URL', { DOWNLINK_OIDC_ISSUER: 'id' }, 'DOWNLINK_OIDC_ISSUER'],
    ['an issuer with a query', { DOWNLINK_OIDC_ISSUER: 'https://id.example.com/?a=b' }, 'DOWNLINK_OIDC_ISSUER'],
    [
      'a path of claims with a gap',
      { ...issuer, DOWNLINK_OIDC_AUDIENCE: 'x', DOWNLINK_OIDC_ROLE_CLAIM: 'a..b' },
      'DOWNLINK_OIDC_ROLE_CLAIM',
    ],
  ])('with %s stops the start and names the variable', (_, environment, variable) => {
    expect(() => readConfig(environment)).toThrow(ConfigError);
    expect(() => readConfig(environment)).toThrow(variable);
  });
});
