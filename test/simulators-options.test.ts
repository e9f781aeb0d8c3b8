import { describe, expect, test } from 'vitest';
import { sseParser, type SseEvent } from '../simulators/sse-parser.ts';
import { parseOptions } from '../simulators/options.ts';
import { Screen } from '../simulators/screen.ts';
import { UserError } from '../simulators/user-error.ts';

function parse(line: string, env: Record<string, string> = {}) {
  return parseOptions(
    line.split(' ').filter((word) => word !== ''),
    env,
    4711,
  );
}

function errorOf(act: () => unknown): Error | undefined {
  try {
    act();
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

describe('options', () => {
  test('without any, a small fleet against this machine', () => {
    expect(parse('')).toEqual({
      command: 'fleet',
      server: { url: 'http://127.0.0.1:8080', mqttUrl: 'mqtt://127.0.0.1:1883', dataDir: './data' },
      push: 10,
      sleepy: 10,
      seconds: 60,
      seed: 4711,
      faults: 0,
    });
  });

  test('the environment says where the server is, the command line has the last word', () => {
    const env = {
      DOWNLINK_HOST: '0.0.0.0',
      DOWNLINK_HTTP_PORT: '9080',
      DOWNLINK_MQTT_PORT: '0',
      DOWNLINK_DATA_DIR: '/var/lib/downlink',
      DOWNLINK_ADMIN_KEY: 'k',
    };
    expect(parse('', env)).toMatchObject({
      server: { url: 'http://127.0.0.1:9080', mqttUrl: 'mqtt://127.0.0.1:1883', dataDir: '/var/lib/downlink', adminKey: 'k' },
    });
    expect(parse('--url http://example.com:80/ --mqtt ws://example.com/mqtt --data-dir d --admin-key x', env)).toMatchObject({
      server: { url: 'http://example.com:80', mqttUrl: 'ws://example.com/mqtt', dataDir: 'd', adminKey: 'x' },
    });
    expect(parse('', { DOWNLINK_HOST: '::' })).toMatchObject({ server: { url: 'http://[::1]:8080' } });
    const off = { DOWNLINK_HTTP_PORT: 'off', DOWNLINK_MQTT_PORT: 'off' };
    expect(parse('', { ...off, DOWNLINK_MQTTS_PORT: '9883' })).toMatchObject({
      server: { url: 'https://127.0.0.1:8443', mqttUrl: 'mqtts://127.0.0.1:9883' },
    });
  });

  test('a fleet and a replay as asked for', () => {
    expect(parse('--push 200 --sleepy 0 --seconds 300 --seed 7 --faults 0.1 --rate 2.5')).toMatchObject({
      push: 200,
      sleepy: 0,
      seconds: 300,
      seed: 7,
      faults: 0.1,
      rate: 2.5,
    });
    expect(parse('replay a.csv --device office --metric temperature --speed 60 --rotate-token')).toMatchObject({
      command: 'replay',
      file: 'a.csv',
      device: 'office',
      metric: 'temperature',
      speed: 60,
      rotateToken: true,
    });
    expect(parse('--help')).toEqual({ command: 'help' });
    expect(parse('replay -h')).toEqual({ command: 'help' });
  });

  test.each([
    ['--pus 5', "Unknown option '--pus'"],
    ['--push', '--push'],
    ['--push many', '--push many: it is a number'],
    ['--push 1.5', '--push 1.5: it is a whole number'],
    ['--push -1', '--push'],
    ['--faults 10', '--faults 10: it is a number from 0 to 1'],
    ['--url example.com', '--url example.com: it is an address'],
    ['--mqtt http://x', '--mqtt http://x: it is an address'],
    ['play a.csv', "Unexpected argument 'play'"],
    ['replay', 'replay takes one file'],
    ['replay a.csv b.csv --device d --metric m', 'replay takes one file'],
    ['replay a.csv --metric m', 'replay needs --device ID'],
    ['replay a.csv --device d', 'replay needs --metric NAME'],
    ['replay a.csv --device a/b --metric m', '--device a/b: a device id is'],
    ['replay a.csv --device d --metric 1x', '--metric 1x: a metric name is'],
    ['replay a.csv --device d --metric m --type integer', '--type integer: it is one of'],
    ['replay a.csv --device d --metric m --speed 0', '--speed 0'],
  ])('%s is answered with one line that names it', (line, message) => {
    const error = errorOf(() => parse(line));
    expect(error).toBeInstanceOf(UserError);
    expect(error?.message).toContain(message);
    expect(error?.message).not.toContain('\n');
  });
});

describe('server-sent events', () => {
  const STREAM =
    'id: 7\r\nevent: command\r\ndata: {"a":1}\r\n\r\n: beat\n\nevent: telemetry\ndata: one\ndata: two\n\nid: 8\ndata:x\n\ndata: cut';

  test.each([1, 2, 3, 7, 1_000])('are read whole however they are cut, here at every %i characters', (size) => {
    const events: SseEvent[] = [];
    const feed = sseParser((event) => events.push(event));
    for (let i = 0; i < STREAM.length; i += size) feed(STREAM.slice(i, i + size));
    expect(events).toEqual([
      { name: 'command', data: '{"a":1}', id: '7' },
      { name: 'telemetry', data: 'one\ntwo', id: '7' },
      { name: 'message', data: 'x', id: '8' },
    ]);
  });
});

describe('the screen', () => {
  test('draws over its block on a terminal, and leaves what is said', () => {
    let out = '';
    const screen = new Screen({ isTTY: true, columns: 10, write: (text) => (out += text) });
    screen.show(['one', 'a line that is far too long']);
    screen.show(['two']);
    screen.say('done');
    expect(out).toBe('one\na line th\n\u001b[2A\u001b[0Jtwo\n\u001b[1A\u001b[0Jdone\n');
  });

  test('never draws where there is no terminal', () => {
    let out = '';
    const screen = new Screen({ write: (text) => (out += text) });
    screen.show(['one']);
    screen.say('done');
    expect(out).toBe('done\n');
  });
});
