import { Agent, get } from 'node:http';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { eventually, expectProblem } from './api-support.ts';
import { EventSource } from './event-source.ts';
import { ADMIN_KEY, LiveServer } from './live-server.ts';

/** A device whose token is rotated or taken away, or that is deleted, is cut from all that it has open. */
let server: LiveServer;
let token: string;

beforeEach(async () => {
  server = await LiveServer.start();
  token = await server.createDevice('pump');
});

afterEach(() => server.close());

const ENDS: readonly (readonly [string, string, string])[] = [
  ['rotated', 'POST', '/v1/devices/pump/token'],
  ['taken away', 'DELETE', '/v1/devices/pump/token'],
  ['deleted with its device', 'DELETE', '/v1/devices/pump'],
];

const presence = async () =>
  (await server.request<{ presence: { state: string } }>('GET', '/v1/devices/pump')).body.presence.state;

describe.each(ENDS)('a token that is %s', (_, method, path) => {
  test('ends an MQTT connection, and opens none', async () => {
    const device = await server.connect('pump', token);
    const closed = device.closed();
    await server.request(method, path);
    await closed;
    await expect(server.connect('pump', token)).rejects.toThrow(/[Nn]ot authorized|Bad username/);
  });

  test('ends a poll that waits', async () => {
    const waiting = server.request('GET', '/v1/device/commands?wait=60', { credential: token });
    await eventually(async () => ((await presence()) === 'waiting' ? true : undefined));
    await server.request(method, path);
    expectProblem(await waiting, 'unauthorized');
    expectProblem(await server.request('GET', '/v1/device/commands', { credential: token }), 'unauthorized');
  });

  test('is refused over the connection that it was good on, and so are one of another device and none', async () => {
    const other = await server.createDevice('other');
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const poll = (authorization?: string): Promise<[status: number | undefined, port: number | undefined]> =>
      new Promise((resolve, reject) => {
        const headers = authorization === undefined ? {} : { authorization };
        get(`${server.url}/v1/device/commands`, { agent, headers }, (answer) => {
          const port = answer.socket.localPort;
          answer.resume().once('end', () => resolve([answer.statusCode, port]));
        }).once('error', reject);
      });
    const [status, port] = await poll(`Bearer ${token}`);
    expect(status).toBe(204);
    expect(await poll(`Bearer ${token}`)).toEqual([204, port]);
    expect(await poll(`Bearer ${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'A'}`)).toEqual([401, port]);
    expect(await poll()).toEqual([401, port]);
    await server.request(method, path);
    expect(await poll(`Bearer ${token}`)).toEqual([401, port]);
    expect(await poll(`Bearer ${other}`)).toEqual([204, port]);
    agent.destroy();
  });

  test('ends a stream of events, and opens none', async () => {
    const stream = await EventSource.open(server, token);
    await server.request(method, path);
    await stream.ended();
    await expect(EventSource.open(server, token)).rejects.toThrow('401 unauthorized');
  });
});

describe('a device whose token was taken away', () => {
  test('is revoked, with its commands, until it is given a new token, also across a restart', async () => {
    const { id } = await server.issue('pump', { name: 'start' });
    expect((await server.request('DELETE', '/v1/devices/pump/token')).status).toBe(204);
    expect((await server.request('DELETE', '/v1/devices/pump/token')).status).toBe(204);
    expect(await presence()).toBe('revoked');
    await server.restart();
    expect(await presence()).toBe('revoked');
    const { body } = await server.request<{ devices: { id: string }[] }>('GET', '/v1/devices?presence=revoked');
    expect(body.devices).toMatchObject([{ id: 'pump' }]);
    expectProblem(await server.request('GET', '/v1/device/commands', { credential: token }), 'unauthorized');
    expectProblem(await server.request('GET', '/v1/device/commands', { credential: 'undefined' }), 'unauthorized');

    const renewed = await server.request<{ token: string }>('POST', '/v1/devices/pump/token');
    expect(await presence()).toBe('never');
    const pulled = await server.request<{ commands: { id: string }[] }>('GET', '/v1/device/commands', {
      credential: renewed.body.token,
    });
    expect(pulled.body.commands).toMatchObject([{ id }]);
  });

  test('stays so when it is changed', async () => {
    await server.request('DELETE', '/v1/devices/pump/token');
    await server.request('PATCH', '/v1/devices/pump', { body: { name: 'old pump' } });
    expect(await presence()).toBe('revoked');
  });

  test('is told of in the live stream', async () => {
    const response = await fetch(`${server.url}/v1/stream?type=presence`, {
      headers: { authorization: `Bearer ${ADMIN_KEY}` },
    });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    await server.request('DELETE', '/v1/devices/pump/token');
    let text = '';
    while (!text.includes('"to":"revoked"')) text += (await reader.read()).value ?? '';
    await reader.cancel();
  });

  test('is no device that does not exist', async () => {
    expectProblem(await server.request('DELETE', '/v1/devices/nobody/token'), 'unknown_device');
  });
});
