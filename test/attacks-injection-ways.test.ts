import { encode } from 'cborg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { AttackedHistory, HISTORIES } from './attacks/attacked-history.ts';
import { CONTROL, TEXTS } from './attacks/injected-texts.ts';
import { AttackedServer, logLines } from './healthy-device.ts';
import type { Answer } from './live-server.ts';
import { IdentityProviderServer } from './servers/identity-provider.ts';

/** Injection by the ways in that are not JSON, and by what registers itself: SenML, CBOR, fleet keys, provisioning, an identity provider's claims. */
const METRICS = ['cbor', 'senml', 'senml_cbor', 'based', 'synced'];
const AUDIENCE = 'downlink';
/** A name keeps its place in the log without them. */
const NOT_IN_NAMES = /[\p{Cc}\p{Surrogate}\u2028\u2029]/gu;
const LONE = ['\ud800', 'x\udfff', '\ude00\ud83d', 'a\ud83d"\n'];

type Entry = {
  readonly actor: { readonly id: string; readonly name: string };
  readonly target: string;
  readonly details?: object;
};

describe.each(HISTORIES)('with History: %s', (which) => {
  let store: AttackedHistory;
  let provider: IdentityProviderServer;
  let server: AttackedServer;

  beforeAll(async () => {
    store = await AttackedHistory.start(which);
    provider = await IdentityProviderServer.start();
    const oidc = { enabled: true, issuer: provider.issuer, audience: AUDIENCE, roleClaim: 'role' } as const;
    server = await AttackedServer.start({}, { oidc, ...store.config });
  });

  afterAll(async () => {
    await server.close();
    await provider.close();
    await store.remove();
  });

  const deviceOf = (i: number): string => `fl-${i}-x`;

  async function auditOf(query: string): Promise<Entry[]> {
    return (await server.live.request<{ entries: Entry[] }>('GET', `/v1/audit?${query}`)).body.entries;
  }

  function send(path: string, type: string, body: unknown, credential?: string): Promise<Answer> {
    const octets = Buffer.isBuffer(body) || typeof body === 'string' ? body : JSON.stringify(body);
    return server.live.request('POST', path, {
      body: octets,
      headers: { 'content-type': type },
      ...(credential && { credential }),
    });
  }

  test('fleet keys and what registers with them keep text as it is', { timeout: 120_000 }, async () => {
    await server.withstands(`injection by fleet keys, ${which}`, async () => {
      for (const [i, text] of TEXTS.entries()) {
        const asked = { name: text, labels: { fleet: text }, idPrefix: `fl-${i}-`, quota: 2 };
        const made = await send('/v1/fleet-keys', 'application/json', asked);
        expect(made).toMatchObject({ status: 201, body: { key: asked } });
        const { key, secret } = made.body as { key: { id: string }; secret: string };
        const { body: list } = await server.live.request<{ fleetKeys: { id: string }[] }>('GET', '/v1/fleet-keys?limit=1000');
        expect(list.fleetKeys.find(({ id }) => id === key.id)).toMatchObject(asked);

        const device = { id: deviceOf(i), name: text, labels: { own: text } };
        expect(await send('/v1/provision', 'application/json', device, secret)).toMatchObject({ status: 201 });
        const shown = await server.live.request('GET', `/v1/devices/${device.id}`);
        expect(shown.body).toMatchObject({ ...device, labels: { own: text, fleet: text } });
        expect(await auditOf(`action=fleet_key.create&target=${key.id}`)).toMatchObject([{ details: { name: text, quota: 2 } }]);
        expect(await auditOf(`target=${device.id}`)).toMatchObject([{ actor: { id: key.id, name: text } }]);

        if (text === '__proto__') continue;
        const refused = [
          await send('/v1/fleet-keys', 'application/json', { ...asked, idPrefix: text }),
          await send('/v1/fleet-keys', 'application/json', { ...asked, labels: { [text]: 'x' } }),
          await send('/v1/fleet-keys', 'application/json', { ...asked, wake: { cron: text } }),
          await send('/v1/fleet-keys', 'application/json', { ...asked, wake: { cron: '* * * * *', timezone: text } }),
          await send('/v1/fleet-keys', 'application/json', { ...asked, expiresAt: text }),
          await send('/v1/provision', 'application/json', { id: text }, secret),
          await send('/v1/provision', 'application/json', { id: `fl-${i}-${text}` }, secret),
          await send('/v1/provision', 'application/json', { id: `fl-${i}-y`, labels: { [text]: 'x' } }, secret),
          await send('/v1/provision', 'application/json', { id: `fl-${i}-y`, [text]: 'x' }, secret),
          await server.live.request('DELETE', `/v1/fleet-keys/${encodeURIComponent(text)}`),
        ];
        expect(
          refused.map(({ status }) => status).filter((status) => ![400, 403, 404].includes(status)),
          text,
        ).toEqual([]);
      }
    });
  });

  test('SenML and CBOR keep text as it is, and names are refused that are none', { timeout: 120_000 }, async () => {
    await server.withstands(`injection by SenML and CBOR, ${which}`, async () => {
      for (const [i, text] of TEXTS.entries()) {
        const { body } = await server.live.request<{ token: string }>('POST', `/v1/devices/${deviceOf(i)}/token`);
        const telemetry = (type: string, value: unknown) =>
          send('/v1/device/telemetry', `application/${type}`, value, body.token);
        const taken = [
          await telemetry('senml+json', [{ n: 'senml', vs: text, u: text }]),
          await telemetry('senml+json', [{ bn: `urn:${text}`, n: 'based', vs: text }]),
          await telemetry(
            'senml+cbor',
            encoded([
              new Map<number, string>([
                [0, 'senml_cbor'],
                [3, text],
                [1, text],
              ]),
            ]),
          ),
          await telemetry('cbor', encoded({ cbor: text })),
        ];
        expect(taken.map(({ status }) => status)).toEqual([202, 202, 202, 202]);
        const synced = await send(
          '/v1/device/sync',
          'application/cbor',
          encoded({ telemetry: { synced: text } }),
          body.token,
        ).catch(
          // The answer is CBOR.
          () => undefined,
        );
        expect(synced).toBeUndefined();
        const latest = await server.live.request<{ metrics: object }>('GET', `/v1/devices/${deviceOf(i)}/telemetry/latest`);
        expect(latest.body.metrics).toMatchObject(Object.fromEntries(METRICS.map((metric) => [metric, { value: text }])));

        if (text === '__proto__') continue;
        const refused = [
          await telemetry('senml+json', [{ n: text, v: 1 }]),
          await telemetry('senml+json', [{ bn: text, v: 1 }]),
          await telemetry('senml+json', [{ n: 'x', v: 1, [`${text}_`]: 1 }]),
          await telemetry('senml+json', [{ n: 'x', vd: text }]),
          await telemetry(
            'senml+cbor',
            encoded([
              new Map<number, unknown>([
                [0, text],
                [2, 1],
              ]),
            ]),
          ),
          await telemetry('cbor', encoded({ [text]: 1 })),
          await telemetry('cbor', encoded([{ ts: text, values: { x: 1 } }])),
        ];
        expect(
          refused.map(({ status }) => status),
          text,
        ).toEqual(refused.map(() => 400));
      }
    });
  });

  test("an identity provider's claims are names and no more", { timeout: 120_000 }, async () => {
    const claims = { iss: provider.issuer, aud: AUDIENCE, role: 'admin', exp: Math.floor(Date.now() / 1_000) + 3_600 };
    await server.withstands(`injection by claims, ${which}`, async () => {
      for (const [i, text] of [...TEXTS, ...LONE].entries()) {
        const named = await provider.sign({ ...claims, sub: `user-${i}`, name: text });
        const made = await send('/v1/devices', 'application/json', { id: `named-${i}` }, named);
        expect(made.status).toBe(201);
        const name = text.replaceAll(NOT_IN_NAMES, ' ');
        expect(await auditOf(`target=named-${i}`)).toMatchObject([{ actor: { id: `oidc:user-${i}`, name } }]);

        const titled = await provider.sign({ ...claims, sub: text, role: [text, 'viewer'] });
        const { status } = await server.live.request('GET', '/v1/devices', { credential: titled });
        expect(status, JSON.stringify(text)).toBe(text === name ? 200 : 401);
        const foreign = await provider.sign({ ...claims, sub: 'x', role: text });
        expect((await server.live.request('GET', '/v1/devices', { credential: foreign })).status).toBe(403);
        const subject = await provider.sign({ ...claims, sub: text });
        if (text !== name) continue;
        expect((await send('/v1/devices', 'application/json', { id: `titled-${i}` }, subject)).status).toBe(201);
        const found = await auditOf(`actor=${encodeURIComponent(`oidc:${text}`)}`);
        expect(found).toMatchObject([{ target: `titled-${i}`, actor: { id: `oidc:${text}` } }]);
      }
    });
  });

  test('what is no character is refused wherever text is taken, and not replaced by another', { timeout: 120_000 }, async () => {
    const token = await server.live.createDevice('lone');
    const { id } = await server.live.issue('lone', { name: 'act' });
    await server.withstands(`what is no character, ${which}`, async () => {
      const answers: Answer[] = [];
      for (const text of LONE) {
        const posts: [string, unknown, string?][] = [
          ['/v1/devices', { id: 'never', name: text }],
          ['/v1/devices', { id: 'never', labels: { x: text } }],
          ['/v1/devices/lone/commands', { name: 'act', params: { x: [text] } }],
          ['/v1/devices/lone/commands', { name: 'act', params: { [text]: 1 } }],
          ['/v1/devices/lone/commands', { name: 'act', key: text }],
          ['/v1/keys', { name: text, role: 'viewer' }],
          ['/v1/fleet-keys', { name: text, quota: 1 }],
          ['/v1/device/telemetry', { text }, token],
          ['/v1/device/telemetry', [{ values: { text } }], token],
          [`/v1/device/commands/${id}`, { state: 'succeeded', message: text }, token],
          ['/v1/device/sync', { telemetry: { text } }, token],
        ];
        for (const [path, body, credential] of posts) answers.push(await send(path, 'application/json', body, credential));
        answers.push(await send('/v1/device/telemetry', 'application/senml+json', [{ n: 'text', vs: text }], token));
        const device = await server.live.connect('lone', token);
        await device.publish('telemetry', { text });
        await device.publish('telemetry', { text }, 0);
        await device.publish(`commands/${id}`, { state: 'succeeded', message: text }, 2);
        await device.end();
      }
      // Text of CBOR that is not UTF-8: a surrogate as octets, an octet alone.
      for (const text of ['63eda080', '61ff', '62c0af', '64f4908080']) {
        for (const metric of ['6474657874', '617862']) {
          const octets = Buffer.from(`a1${metric}${text}`, 'hex');
          answers.push(await send('/v1/device/telemetry', 'application/cbor', octets, token));
        }
        answers.push(await send('/v1/device/telemetry', 'application/cbor', Buffer.from(`a1${text}01`, 'hex'), token));
        const senml = Buffer.from(`81a200647465787403${text}`, 'hex');
        answers.push(await send('/v1/device/telemetry', 'application/senml+cbor', senml, token));
      }
      expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 400));
    });
    const { body } = await server.live.request('GET', '/v1/devices/lone/telemetry/latest');
    expect(body).toMatchObject({ metrics: {} });
    expect(await server.live.command(id)).toMatchObject({ state: expect.not.stringMatching('succeeded') });
  });

  test('History holds what was put there, and not a row more', async () => {
    const entries: Entry[] = [];
    for (let cursor = ''; ;) {
      const { body } = await server.live.request<{ entries: Entry[]; cursor?: string }>('GET', `/v1/audit?limit=1000${cursor}`);
      entries.push(...body.entries);
      if (body.cursor === undefined) break;
      cursor = `&cursor=${body.cursor}`;
    }
    // Both become durable together; History has them when it is asked for readings.
    await server.live.request('GET', '/v1/devices/healthy/telemetry?metric=n');
    await server.live.stop();
    const history = await store.open(server.live.dataDir);
    const all = { fromNs: 0n, toNs: 2n ** 62n, limit: 1_000 };
    for (const [i, text] of TEXTS.entries()) {
      for (const metric of METRICS) {
        const readings = await history.readings({ ...all, deviceId: deviceOf(i), metric });
        expect(
          readings.map(({ value }) => value),
          `${deviceOf(i)} ${metric}`,
        ).toEqual([text]);
      }
    }
    expect(await history.readings({ ...all, deviceId: 'lone', metric: 'text' })).toEqual([]);
    expect(await history.readings({ ...all, deviceId: 'healthy', metric: 'planted' })).toEqual([]);
    await history.close();
    const { influxd } = store;
    if (influxd === undefined) return;
    const rows = rowsOf(await influxd.execute('SELECT "actor", "actor_name" FROM audit', 'downlink'));
    const pair = ([actor, name]: readonly unknown[]): string => JSON.stringify([actor, name]);
    // The healthy device's operator went on until the stop.
    const others = (pairs: readonly string[]): string[] => pairs.filter((one) => !one.endsWith(',"operator"]')).toSorted();
    expect(others(rows.map(([, ...row]) => pair(row)))).toEqual(others(entries.map(({ actor }) => pair([actor.id, actor.name]))));
    const fields = rowsOf(await influxd.execute('SHOW FIELD KEYS FROM telemetry', 'downlink')).map(([field]) => String(field));
    expect(new Set(fields)).toEqual(new Set([...METRICS, 'n']));
  });

  test('every log line is JSON on one line, without a control character', () => {
    const lines = logLines(server.process.printed).filter((line) => !/^(stopped|SIGTERM: .*|)$/.test(line));
    for (const line of lines) {
      expect(() => JSON.parse(line) as unknown, line).not.toThrow();
      expect(CONTROL.test(line), JSON.stringify(line)).toBe(false);
    }
  });
});

function encoded(value: unknown): Buffer {
  return Buffer.from(encode(value));
}

function rowsOf(answer: unknown): unknown[][] {
  const { results } = answer as { results: { series?: { values: unknown[][] }[] }[] };
  return results.flatMap(({ series = [] }) => series.flatMap(({ values }) => values));
}
