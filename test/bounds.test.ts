import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import fc from 'fast-check';
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { DEFAULT_BOUNDS, type Bounds } from '../broker/bounds.ts';
import { addressKey, TrustedProxies } from '../broker/limits/addresses.ts';
import { BoundEvents } from '../broker/limits/bound-events.ts';
import { ConnectionGate } from '../broker/limits/connection-gate.ts';
import { Limits } from '../broker/limits/limits.ts';
import { LoginGuard } from '../broker/limits/login-guard.ts';
import { Rates } from '../broker/limits/rates.ts';
import { BURST_SECONDS, TokenBucket } from '../broker/limits/token-bucket.ts';
import { Metrics } from '../broker/metrics.ts';

/** The parts that bounds are made of, each by itself and with a clock that is moved. */
const SILENT = pino({ level: 'silent' });

function eventsWith(log = SILENT): BoundEvents {
  return new BoundEvents(new Metrics(), log);
}

describe('a token bucket', () => {
  test('gives ten seconds’ worth at once, then as much as its rate', () => {
    const bucket = new TokenBucket({ perSecond: 5 }, 0);
    for (let n = 0; n < 5 * BURST_SECONDS; n += 1) expect(bucket.tryTake(1, 0)).toBe(0);
    expect(bucket.tryTake(1, 0)).toBe(200);
    expect(bucket.tryTake(1, 199)).toBeCloseTo(1);
    expect(bucket.tryTake(1, 200)).toBe(0);
    expect(bucket.isFull(10_199)).toBe(false);
    expect(bucket.isFull(10_200)).toBe(true);
  });

  test('lets one thing larger than itself through when it is full, and is made up for before the next', () => {
    const bucket = new TokenBucket({ perSecond: 1 }, 0);
    expect(bucket.tryTake(100, 0)).toBe(0);
    expect(bucket.tryTake(1, 0)).toBe(91_000);
    expect(bucket.tryTake(1, 91_000)).toBe(0);
  });

  test('says how long what came anyway is owed', () => {
    const bucket = new TokenBucket({ perSecond: 10 }, 0);
    expect(bucket.owe(100, 0)).toBe(0);
    expect(bucket.owe(5, 0)).toBe(500);
    expect(bucket.owe(0, 499)).toBeCloseTo(1);
    expect(bucket.owe(0, 500)).toBe(0);
  });

  test('never gives more than its reserve and its rate, however it is asked', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 100 }),
        fc.array(fc.tuple(fc.integer({ min: 0, max: 2_000 }), fc.integer({ min: 1, max: 20 })), { maxLength: 200 }),
        (perSecond, asks) => {
          const bucket = new TokenBucket({ perSecond }, 0);
          let now = 0;
          let given = 0;
          for (const [pause, count] of asks) {
            now += pause;
            if (bucket.tryTake(count, now) === 0) given += count;
          }
          // One ask may be larger than all of the reserve.
          expect(given).toBeLessThanOrEqual(perSecond * BURST_SECONDS + (perSecond * now) / 1_000 + 20);
        },
      ),
    );
  });
});

test('rates are kept by id, and no more of them than may be', () => {
  let now = 0;
  const rates = new Rates({ perSecond: 1 }, () => now, 2);
  for (let n = 0; n < BURST_SECONDS; n += 1) expect(rates.tryTake('a')).toBe(0);
  expect(rates.tryTake('a')).toBe(1_000);
  expect(rates.tryTake('b')).toBe(0);
  rates.tryTake('c');
  expect(rates.size).toBe(2);
  now = 1_000;
  expect(rates.tryTake('b')).toBe(0);
  rates.close();
});

describe('addresses', () => {
  test.each([
    ['127.0.0.1', '127.0.0.1'],
    ['::ffff:10.1.2.3', '10.1.2.3'],
    ['::FFFF:10.1.2.3', '10.1.2.3'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:0db8:0001:0002::1', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['::', '0:0:0:0::/64'],
    ['1:2:3:4::', '1:2:3:4::/64'],
  ])('%s counts as %s', (ip, key) => {
    expect(addressKey(ip)).toBe(key);
  });

  test('a client’s address is the last that no trusted proxy has, and only a trusted proxy is believed', () => {
    const proxies = new TrustedProxies(['10.0.0.0/8', '::1']);
    expect(proxies.clientOf('1.2.3.4', '9.9.9.9')).toBe('1.2.3.4');
    expect(proxies.clientOf('10.0.0.1', '9.9.9.9')).toBe('9.9.9.9');
    expect(proxies.clientOf('::1', '6.6.6.6, 9.9.9.9, 10.3.3.3')).toBe('9.9.9.9');
    expect(proxies.clientOf('10.0.0.1', undefined)).toBe('10.0.0.1');
    expect(proxies.clientOf('10.0.0.1', 'nonsense')).toBe('10.0.0.1');
    expect(proxies.clientOf('::ffff:10.0.0.1', '9.9.9.9')).toBe('9.9.9.9');
    expect(new TrustedProxies([]).clientOf('127.0.0.1', '9.9.9.9')).toBe('127.0.0.1');
  });
});

describe('wrong credentials', () => {
  const PER_MINUTE = 10;

  function guard(more: Partial<Bounds> = {}): { guard: LoginGuard; at: (seconds: number) => void } {
    let now = 0;
    const bounds = { ...DEFAULT_BOUNDS, wrong_credentials: PER_MINUTE, login_pause: 8, ...more };
    return { guard: new LoginGuard(bounds, eventsWith(), () => now), at: (seconds) => (now = seconds * 1_000) };
  }

  test('pause all logins from their address but those that were good before, twice as long each time, up to a bound', () => {
    const { guard: logins, at } = guard();
    expect(logins.right('1.1.1.1', 'old')).toBe(0);
    for (let n = 0; n < PER_MINUTE; n += 1) expect(logins.wrong('1.1.1.1')).toBe(0);
    expect(logins.wrong('1.1.1.1')).toBe(1);
    expect(logins.right('1.1.1.1', 'new')).toBe(1);
    expect(logins.right('1.1.1.1', 'old')).toBe(0);
    expect(logins.right('2.2.2.2', 'new')).toBe(0);
    expect(logins.wrong('2.2.2.2')).toBe(0);

    let seconds = 1;
    for (const pause of [2, 4, 8, 8]) {
      at(seconds);
      let pausedFor = 0;
      for (let n = 0; n < PER_MINUTE && pausedFor === 0; n += 1) pausedFor = logins.wrong('1.1.1.1');
      expect(pausedFor).toBe(pause);
      seconds += pause;
    }
    at(seconds);
    expect(logins.right('1.1.1.1', 'new')).toBe(0);
  });

  test('are forgotten in time', () => {
    const { guard: logins, at } = guard();
    for (let n = 0; n < PER_MINUTE; n += 1) logins.wrong('1.1.1.1');
    expect(logins.wrong('1.1.1.1')).toBe(1);
    at(200);
    for (let n = 0; n < PER_MINUTE; n += 1) expect(logins.wrong('1.1.1.1')).toBe(0);
    expect(logins.wrong('1.1.1.1')).toBe(1);
  });

  test('of one device with an old token that tries again and again never pause anybody', () => {
    const { guard: logins, at } = guard();
    for (let seconds = 0; seconds < 3_600; seconds += 10) {
      at(seconds);
      expect(logins.wrong('1.1.1.1')).toBe(0);
      expect(logins.right('1.1.1.1', `new-${seconds}`)).toBe(0);
    }
  });

  test('from anywhere in a /64 count together', () => {
    const { guard: logins } = guard();
    for (let n = 0; n <= PER_MINUTE; n += 1) logins.wrong(`2001:db8:1:1::${n}`);
    expect(logins.wrong('2001:db8:1:1:ffff::1')).toBe(1);
    expect(logins.wrong('2001:db8:1:2::1')).toBe(0);
  });
});

describe('the gate', () => {
  async function gated(bounds: Partial<Bounds>, trusted: readonly string[] = []) {
    let now = 0;
    const metrics = new Metrics();
    const events = new BoundEvents(metrics, SILENT);
    const gate = new ConnectionGate({ ...DEFAULT_BOUNDS, ...bounds }, new TrustedProxies(trusted), events, () => now);
    const taken: Socket[] = [];
    const server = createServer((socket) => {
      if (!socket.destroyed) taken.push(socket);
    });
    gate.guard(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    /** True when it is taken. */
    const open = async (localAddress = '127.0.0.1'): Promise<Socket | undefined> => {
      const before = taken.length;
      const socket = connect({ port, host: '127.0.0.1', localAddress });
      socket.on('error', () => {});
      const isClosed = once(socket, 'close').then(() => false);
      const isTaken = async (): Promise<boolean> => {
        while (taken.length === before) await new Promise(setImmediate);
        return true;
      };
      return (await Promise.race([isClosed, isTaken()])) ? socket : undefined;
    };
    const close = (): void => {
      for (const socket of taken) socket.destroy();
      server.close();
      gate.close();
    };
    const reached = async (bound: string): Promise<number> => countOf(await metrics.registry.metrics(), bound);
    return { gate, open, close, reached, at: (ms: number) => (now = ms) };
  }

  test('takes no more connections than may be, and one again when one has gone', async () => {
    const { gate, open, close, reached } = await gated({ connections: 10 });
    const first = await open();
    for (let n = 1; n < 10; n += 1) expect(await open(`127.0.0.${n}`)).toBeDefined();
    expect(await open()).toBeUndefined();
    expect(await reached('connections')).toBe(1);
    first?.destroy();
    while (gate.open === 10) await new Promise(setImmediate);
    expect(await open()).toBeDefined();
    close();
  });

  test('takes so many of one address, and leaves the others alone', async () => {
    const { gate, open, close, reached } = await gated({ connections_per_address: 2 });
    const first = await open();
    await open();
    expect(await open()).toBeUndefined();
    expect(await open('127.0.0.2')).toBeDefined();
    expect(await reached('connections_per_address')).toBe(1);
    first?.destroy();
    while (gate.open === 3) await new Promise(setImmediate);
    expect(await open()).toBeDefined();
    close();
  });

  test('takes so many a second of one address, and a trusted proxy’s all', async () => {
    const { open, close, reached, at } = await gated({ connects_per_second: 1 }, ['127.0.0.9']);
    for (let n = 0; n < BURST_SECONDS; n += 1) expect(await open()).toBeDefined();
    expect(await open()).toBeUndefined();
    expect(await open('127.0.0.2')).toBeDefined();
    for (let n = 0; n <= BURST_SECONDS; n += 1) expect(await open('127.0.0.9')).toBeDefined();
    expect(await reached('connects_per_second')).toBe(1);
    at(1_000);
    expect(await open()).toBeDefined();
    close();
  });
});

test('a bound that is reached a thousand times counts a thousand times and is told twice', async () => {
  const lines: string[] = [];
  const metrics = new Metrics();
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) });
  const events = new BoundEvents(metrics, log);
  for (let n = 0; n < 1_000; n += 1) events.reached('connections', { address: '1.2.3.4\nforged' });
  while (lines.length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
  expect(lines.map((line) => JSON.parse(line) as unknown)).toMatchObject([
    { bound: 'connections', address: '1.2.3.4\nforged', msg: 'bound reached: connections (DOWNLINK_CONNECTIONS_MAX)' },
    { bound: 'connections', times: 999 },
  ]);
  expect(lines.every((line) => line.indexOf('\n') === line.length - 1)).toBe(true);
  expect(countOf(await metrics.registry.metrics(), 'connections')).toBe(1_000);
});

test('every bound is in the metrics from the start', async () => {
  const metrics = new Metrics();
  const limits = new Limits(DEFAULT_BOUNDS, [], metrics, SILENT);
  const text = await metrics.registry.metrics();
  for (const bound of Object.keys(DEFAULT_BOUNDS)) expect(text).toContain(`downlink_bound_reached_total{bound="${bound}"} 0\n`);
  limits.close();
});

function countOf(metrics: string, bound: string): number {
  return Number(new RegExp(`downlink_bound_reached_total\\{bound="${bound}"\\} (\\d+)`).exec(metrics)?.[1]);
}
