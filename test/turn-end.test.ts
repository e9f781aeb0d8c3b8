import { once } from 'node:events';
import { connect, Socket, type AddressInfo } from 'node:net';
import { fastify, type FastifyInstance, type FastifyReply } from 'fastify';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { leaveTogether } from '../dashboard-api/turn-end.ts';

/** When answers leave: those of one turn of the event loop in a row, at its end. */
let app: FastifyInstance;
let stopping: AbortController;
let waiting: FastifyReply[];
let said: string[];
let clients: Socket[];

beforeEach(async () => {
  stopping = new AbortController();
  waiting = [];
  said = [];
  clients = [];
  app = fastify();
  app.addHook('onSend', leaveTogether(stopping.signal));
  app.get('/', (_, reply) => void waiting.push(reply));
  await app.listen({ port: 0, host: '127.0.0.1' });
  for (const way of ['_write', '_writev'] as const) {
    const write = Socket.prototype[way] as (...args: unknown[]) => void;
    vi.spyOn(Socket.prototype, way).mockImplementation(function (this: Socket, ...args: unknown[]) {
      if (this.localPort === (app.server.address() as AddressInfo | null)?.port) said.push('left');
      write.apply(this, args);
    });
  }
});

afterEach(async () => {
  vi.restoreAllMocks();
  for (const client of clients) client.destroy();
  await app.close();
});

async function asked(count: number, text = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'): Promise<void> {
  for (let n = 0; n < count; n += 1) {
    const client = connect((app.server.address() as AddressInfo).port, '127.0.0.1');
    clients.push(client);
    client.write(text);
  }
  while (waiting.length < count) await new Promise((resolve) => setImmediate(resolve));
}

function answerAll(body: unknown): void {
  for (const reply of waiting.splice(0)) {
    void reply.send(body);
    said.push('answered');
  }
}

async function heard(client: Socket | undefined): Promise<string> {
  const [chunk] = (await once(client ?? new Socket(), 'data')) as [Buffer];
  return chunk.toString();
}

test.each([
  ['with a body', 'done'],
  ['without', undefined],
])('answers of one turn leave in a row, %s', async (_, body) => {
  await asked(2);
  const answers = clients.map(heard);
  answerAll(body);
  expect(said).toEqual(['answered', 'answered']);
  for (const answer of answers) expect(await answer).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
  expect(said).toEqual(['answered', 'answered', 'left', 'left']);
});

test('requests in one write are all answered, in their order, and the connection goes on', async () => {
  await asked(1, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(2));
  for (const body of ['first', 'second', 'third']) {
    while (waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
    const answer = heard(clients[0]);
    void waiting.shift()?.send(body);
    expect(await answer).toContain(body);
    if (body === 'second') clients[0]?.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  }
});

test('what is answered when the server begins to stop has left before idle connections are closed', async () => {
  await asked(2);
  const answers = clients.map(heard);
  const [first, second] = waiting.splice(0);
  void first?.send('before');
  stopping.abort();
  void second?.send('after');
  app.server.closeIdleConnections();
  expect(await Promise.all(answers)).toEqual([expect.stringContaining('before'), expect.stringContaining('after')]);
});
