import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { lines, portOf, rawHttp, type RawAnswer } from './attacks/raw-http.ts';
import { keyFor, nested } from './api-support.ts';
import { AttackedServer } from './healthy-device.ts';

/** Requests that are not what they seem: smuggled, misspelt, too large, or JSON of an odd kind. */
let server: AttackedServer;
let port: number;
let token: string;
/** The attacker's own, an admin's: what it is refused is for what it sends. */
let key: string;

beforeAll(async () => {
  server = await AttackedServer.start();
  port = portOf(server.live.url);
  token = await server.live.createDevice('web');
  key = (await keyFor(server.live, 'admin')).secret;
});

afterAll(() => server.close());

/** The key is made when the server is there. */
const AUTH = 'Authorization: Bearer KEY';
const SMUGGLED = lines('DELETE /v1/devices/web HTTP/1.1', 'Host: x', AUTH, '');

function send(octets: string, answers = 1): Promise<RawAnswer[]> {
  return rawHttp(port, octets.replaceAll('Bearer KEY', `Bearer ${key}`), answers);
}

describe('a request hidden in another', () => {
  const post = 'POST /v1/devices/web/commands HTTP/1.1';
  const json = 'Content-Type: application/json';
  test.each([
    [
      'Content-Length and Transfer-Encoding',
      lines(post, 'Host: x', AUTH, json, 'Content-Length: 4', 'Transfer-Encoding: chunked', '', '0', ''),
    ],
    [
      'Transfer-Encoding and Content-Length',
      lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding: chunked', 'Content-Length: 4', '', '0', ''),
    ],
    ['two different Content-Lengths', lines(post, 'Host: x', AUTH, json, 'Content-Length: 0', 'Content-Length: 50', '')],
    ['a list of Content-Lengths', lines(post, 'Host: x', AUTH, json, 'Content-Length: 0, 50', '')],
    ['Content-Length: +0', lines(post, 'Host: x', AUTH, json, 'Content-Length: +0', '')],
    ['Content-Length: -1', lines(post, 'Host: x', AUTH, json, 'Content-Length: -1', '')],
    ['Content-Length: 0x10', lines(post, 'Host: x', AUTH, json, 'Content-Length: 0x10', '')],
    ['Transfer-Encoding: xchunked', lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding: xchunked', '', '0', '')],
    [
      'Transfer-Encoding: chunked, identity',
      lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding: chunked, identity', '', '0', ''),
    ],
    ['a space before the colon', lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding : chunked', '', '0', '')],
    ['a folded header', lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding:', ' chunked', 'Content-Length: 4', '', '0', '')],
    ['a bare CR', `${post}\r\nHost: x\r\n${AUTH}\r\n${json}\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n`],
    ['a bare LF', `${post}\r\nHost: x\r\n${AUTH}\r\nX: a\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n`],
    ['NUL in a header', lines(post, 'Host: x', AUTH, json, 'X: a\u0000b', 'Content-Length: 0', '')],
    ['a chunk size that is none', lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding: chunked', '', 'zz', '')],
    ['a chunk size past 2^64', lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding: chunked', '', 'fffffffffffffffff', '')],
    [
      'a chunk extension of 64 KiB',
      lines(post, 'Host: x', AUTH, json, 'Transfer-Encoding: chunked', '', `1;${'x'.repeat(65_536)}`, '{', '0', ''),
    ],
  ])('is refused, and nothing of it is carried out: %s', async (name, octets) => {
    const answers = await server.withstands(`smuggling by ${name}`, () => send(octets + SMUGGLED, 2));
    // One refusal; what follows it on the connection is not read, or is a request in plain sight.
    expect(answers[0]?.status).toBe(400);
    expect(answers).toHaveLength(1);
    expect((await server.live.request('GET', '/v1/devices/web')).status).toBe(200);
  });
});

test.each([
  ['a newline in the path', `GET /v1/devices\r\n${AUTH} HTTP/1.1\r\nHost: x\r\n\r\n`],
  ['HTTP/0.9', 'GET /v1/devices\r\n\r\n'],
  ['HTTP/1.0', `GET /v1/devices HTTP/1.0\r\n\r\n`],
  ['HTTP/3.7', lines('GET /v1/devices HTTP/3.7', 'Host: x', AUTH, '')],
  ['no method', lines('/v1/devices HTTP/1.1', 'Host: x', AUTH, '')],
  ['no Host', lines('GET /v1/devices HTTP/1.1', AUTH, '')],
])('a request line of another kind shows nothing: %s', async (name, octets) => {
  const [answer] = await server.withstands(`request line with ${name}`, () => send(octets));
  expect([400, 401, 505]).toContain(answer?.status);
});

describe('a path that is spelt oddly', () => {
  const PATHS = [
    '//v1/devices',
    '/v1//devices',
    '/v1/devices/../devices/web',
    '/v1/devices/%2e%2e/web',
    '/v1/devices/..%2fweb',
    '/v1/devices/web%00',
    '/v1/devices/web%0a',
    '/v1/devices/web;x=1',
    '/v1/devices/web%3Bx',
    '/V1/devices/web',
    '/v1/devices/%c0%af',
    '/v1/devices/%ff',
    '/v1/devices/%',
    '/v1/devices/%zz',
    '/v1/devices/__proto__',
    '/v1/devices/constructor',
    '/v1/commands/__proto__',
    '/v1/devices/web/telemetry?metric=x&__proto__=1',
    '/v1/devices?label=__proto__:x&label=constructor:y',
    '/v1/devices?cursor=__proto__',
    `/v1/devices/${'a'.repeat(8_000)}`,
    `/${'../'.repeat(200)}etc/passwd`,
    '/docs/../../../../etc/passwd',
    '/docs/%2e%2e/%2e%2e/package.json',
    '/docs/static/..%2f..%2fpackage.json',
    'http://elsewhere/v1/devices',
    '*',
    'healthz',
  ];
  test.each(PATHS.map((path) => [path.slice(0, 60), path] as const))(
    'shows nothing without a key, and is no fault of the server with one: %s',
    async (name, path) => {
      await server.withstands(`path ${name}`, async () => {
        for (const auth of [[], [AUTH]]) {
          const [answer] = await send(lines(`GET ${path} HTTP/1.1`, 'Host: x', ...auth, 'Connection: close', ''));
          expect(answer?.status).toBeLessThan(500);
          expect(answer?.status, answer?.body).toBeGreaterThanOrEqual(200);
          expect(answer?.body).not.toMatch(/root:|"dependencies"|at .*\.[jt]s:/);
          // `*` is the front page, which leads to the documentation.
          if (auth.length === 0) expect([302, 400, 401, 404, 429]).toContain(answer?.status);
        }
      });
    },
  );
});

test.each([['TRACE'], ['OPTIONS'], ['HEAD'], ['CONNECT'], ['PROPFIND'], ['PURGE'], ['BREW'], ['get'], ['A'.repeat(50)]])(
  'the method %s opens nothing and echoes nothing',
  async (method) => {
    await server.withstands(`method ${method.slice(0, 20)}`, async () => {
      for (const path of ['/v1/device/commands', '/v1/devices', '/healthz', '*']) {
        const [answer] = await send(
          lines(`${method} ${path} HTTP/1.1`, 'Host: x', AUTH, 'X-Secret: echo-me', 'Connection: close', ''),
        );
        // Nothing at all is an answer too: CONNECT gets none.
        if (answer === undefined) continue;
        expect([400, 403, 404, 405, 501]).toContain(answer.status);
        expect(answer.body + answer.head).not.toContain('echo-me');
      }
    });
  },
);

test('headers too large or too many are refused, before and after the server knows who asks', async () => {
  await server.withstands('large headers', async () => {
    for (const many of [
      [`X: ${'x'.repeat(1_000_000)}`],
      Array.from({ length: 20_000 }, (_, i) => `X-${i}: y`),
      [`Authorization: Bearer ${'x'.repeat(12_000)}`],
      [`Cookie: ${'a=b; '.repeat(100_000)}`],
    ]) {
      const [answer] = await send(lines('GET /v1/devices HTTP/1.1', 'Host: x', ...many, ''));
      expect([400, 401, 431, undefined]).toContain(answer?.status);
    }
  });
});

test.each([
  ['/v1/devices', 'KEY', 'POST'],
  ['/v1/device/telemetry', 'device', 'POST'],
  ['/v1/device/sync', 'device', 'POST'],
  ['/v1/devices', 'nobody', 'POST'],
  ['/v1/provision', 'nobody', 'POST'],
  ['/v1/nowhere', 'nobody', 'POST'],
])('a body of 1 GiB to %s is refused unread (%s)', async (path, who, method) => {
  const credential = who === 'device' ? token : who;
  await server.withstands(`1 GiB to ${path} as ${who.slice(0, 6)}`, async () => {
    for (const length of ['Content-Length: 1073741824', 'Transfer-Encoding: chunked']) {
      const head = lines(
        `${method} ${path} HTTP/1.1`,
        'Host: x',
        `Authorization: Bearer ${credential}`,
        'Content-Type: application/json',
        length,
        '',
      );
      const chunk = 'x'.repeat(65_536);
      const body = length.startsWith('C') ? chunk.repeat(16) : `10000\r\n${chunk}\r\n`.repeat(16);
      const [answer] = await send(head + body);
      expect([401, 404, 413, undefined]).toContain(answer?.status);
    }
  });
});

describe('JSON of an odd kind', () => {
  const post = (path: string, body: string | Uint8Array, credential = key) =>
    server.live.request<{ code?: string }>('POST', path, { body, credential });

  test.each([
    ['nested 100,000 deep', nested(50_000)],
    ['objects nested deep', '{"params":'.repeat(5_000)],
    ['cut short', '{"name":"x"'],
    ['nothing but white space', ' '.repeat(100_000)],
    ['NaN', '{"name":"x","params":NaN}'],
    ['1e400 in params', '{"name":"x","params":1e400}'],
    ['a byte order mark', '\ufeff{"name":"x"}'],
    ['__proto__ as the request', '{"__proto__":{"name":"x"}}'],
    ['__proto__ beside the name', '{"name":"x","__proto__":{"force":true}}'],
    ['constructor beside the name', '{"name":"x","constructor":{"prototype":{}}}'],
    ['a string for the request', '"x"'],
    ['null', 'null'],
    ['1e400 deep in params', '{"name":"x","params":{"a":[1,{"b":-1e999}]}}'],
  ])('is refused with 400: %s', async (name, body) => {
    const answer = await server.withstands(`JSON ${name}`, () => post('/v1/devices/web/commands', body));
    expect(answer).toMatchObject({ status: 400, body: { code: expect.stringMatching(/^invalid_/) } });
  });

  test.each([
    ['a lone continuation', Buffer.from([0x22, 0x80, 0x22])],
    ['overlong', Buffer.from([0x22, 0xc0, 0xaf, 0x22])],
    ['a surrogate', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22])],
    ['past U+10FFFF', Buffer.from([0x22, 0xf4, 0x90, 0x80, 0x80, 0x22])],
    ['UTF-16', Buffer.from('{"name":"x"}', 'utf16le')],
  ])('is refused where it is no UTF-8: %s', async (name, octets) => {
    const body = Buffer.concat([Buffer.from('{"name":"x","params":'), octets, Buffer.from('}')]);
    await server.withstands(`UTF-8 ${name}`, async () => {
      expect(await post('/v1/devices/web/commands', body)).toMatchObject({ status: 400, body: { code: 'invalid_json' } });
      expect(
        await post('/v1/device/telemetry', Buffer.concat([Buffer.from('{"m":'), octets, Buffer.from('}')]), token),
      ).toMatchObject({
        status: 400,
        body: { code: 'invalid_json' },
      });
    });
  });

  test('numbers: 1e400 is no reading; -0 and numbers past 2^53 are the doubles that they are', async () => {
    await server.withstands('odd numbers', async () => {
      expect((await post('/v1/device/telemetry', '{"big":1e400}', token)).status).toBe(400);
      expect(
        (
          await post(
            '/v1/device/telemetry',
            '{"zero":-0,"past":9007199254740993,"tiny":5e-324,"huge":1.7976931348623157e308}',
            token,
          )
        ).status,
      ).toBe(202);
    });
    for (const [metric, value] of [
      ['zero', 0],
      ['past', 9_007_199_254_740_992],
      ['tiny', 5e-324],
      ['huge', Number.MAX_VALUE],
    ] as const) {
      const { body } = await server.live.request<{ points: { value: number }[] }>(
        'GET',
        `/v1/devices/web/telemetry?metric=${metric}`,
      );
      expect(
        body.points.map((point) => point.value + 0),
        metric,
      ).toEqual([value]);
    }
  });

  test('a name given twice counts once, the last time', async () => {
    await server.withstands('duplicate keys', async () => {
      const { status, body } = await server.live.request<{ name: string }>('POST', '/v1/devices/web/commands', {
        body: '{"name":"first","name":"last"}',
      });
      expect([status, body.name]).toEqual([201, 'last']);
    });
  });

  test('a lone surrogate in a string arrives as what UTF-8 can hold, the same everywhere', async () => {
    await server.withstands('lone surrogates', async () => {
      const { status, body } = await server.live.request<{ id: string }>('POST', '/v1/devices/web/commands', {
        body: '{"name":"x","params":{"s":"\\ud800x"},"key":"\\udfff"}',
      });
      if (status === 400) return;
      expect(status).toBe(201);
      expect((await server.live.request('GET', `/v1/commands/${body.id}`)).status).toBe(200);
      expect((await post('/v1/device/telemetry', '{"s":"\\ud800x"}', token)).status).toBe(202);
      const latest = await server.live.request<{ metrics: { s: { value: string } } }>('GET', '/v1/devices/web/telemetry/latest');
      expect(latest.body.metrics.s.value).toBe('\ufffdx');
    });
  });
});
