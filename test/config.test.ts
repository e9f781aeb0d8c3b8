import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readConfig } from '../broker/config.ts';

/** What the environment sets, and what holds without it: SECURITY.md's "As it comes". */
test('without any setting it listens on this machine alone, in plain, trusts no proxy, and knows no provider and no InfluxDB', () => {
  expect(readConfig({})).toMatchObject({
    host: '127.0.0.1',
    mqttPort: 1883,
    httpPort: 8080,
    dataDir: resolve('./data'),
    tls: { enabled: false },
    oidc: { enabled: false },
    influx: { enabled: false },
    trustedProxies: [],
    adminKey: undefined,
    logLevel: 'info',
  });
});

test('an empty variable counts as unset', () => {
  expect(readConfig({ DOWNLINK_HOST: '', DOWNLINK_ADMIN_KEY: '' })).toEqual(readConfig({}));
});

describe('a wrong setting stops the start with one line that names it', () => {
  test.each([
    [{ DOWNLINK_HOSTS: 'x' }, /^DOWNLINK_HOSTS is not a variable of Downlink's; it knows DOWNLINK_HOST, /],
    [{ DOWNLINK_MQTT_PORT: 'x' }, /^DOWNLINK_MQTT_PORT is a port/],
    [{ DOWNLINK_HTTP_PORT: '65536' }, /^DOWNLINK_HTTP_PORT is a port/],
    [{ DOWNLINK_ADMIN_KEY: 'fifteen-letters' }, /^DOWNLINK_ADMIN_KEY has at least 16 characters/],
    [{ DOWNLINK_ADMIN_KEY: 'sixteen characters' }, /^DOWNLINK_ADMIN_KEY is printable ASCII without spaces/],
    [{ DOWNLINK_INFLUX_URL: 'influx.local:8086' }, /^DOWNLINK_INFLUX_URL is a URL such as/],
    [{ DOWNLINK_INFLUX_USERNAME: 'x' }, /^DOWNLINK_INFLUX_USERNAME is set but DOWNLINK_INFLUX_URL is not/],
    [
      { DOWNLINK_INFLUX_URL: 'http://x', DOWNLINK_INFLUX_DATABASE: 'a"b' },
      /^DOWNLINK_INFLUX_DATABASE is 1\.\.64 of A-Z a-z 0-9 _ -/,
    ],
    [{ DOWNLINK_LOG_LEVEL: 'loud' }, /^DOWNLINK_LOG_LEVEL is one of fatal, /],
    [{ DOWNLINK_JOURNAL_MAX_BYTES: '1000' }, /^DOWNLINK_JOURNAL_MAX_BYTES is a number of bytes, at least 1048576/],
  ])('%j', (environment, line) => {
    expect(() => readConfig(environment)).toThrow(line);
  });
});
