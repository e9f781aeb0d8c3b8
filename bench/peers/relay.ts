import { createServer } from 'node:net';
import { Aedes } from 'aedes';
import { fastify } from 'fastify';
import { commandsTopic } from '../../devices/topics.ts';
import { ready } from './ready.ts';

/** What one would write in an afternoon: a route that publishes to the device's topic, stores nothing and promises nothing. */
const broker = await Aedes.createBroker();
const server = createServer((socket) => void broker.handle(socket));
const app = fastify();
let issued = 0;

app.post('/v1/devices/:id/commands', async (request, reply) => {
  const { id } = request.params as { id: string };
  issued += 1;
  const command = { id: String(issued), ...(request.body as object) };
  const payload = Buffer.from(JSON.stringify(command));
  await new Promise<void>((resolve, reject) => {
    broker.publish({ cmd: 'publish', topic: commandsTopic(id), payload, qos: 1, dup: false, retain: false }, (error) =>
      error ? reject(error) : resolve(),
    );
  });
  return reply.code(201).send(command);
});

await app.listen({ host: '127.0.0.1', port: 0 });
server.listen(0, '127.0.0.1', () => ready({ http: app.server.address(), mqtt: server.address() }));
