import { fastify } from 'fastify';
import { ready } from './ready.ts';

/** Fastify routes that look nothing up and keep nothing: the floor under a poll, a pull and a report. */
const app = fastify();
const command = { id: '019b76da-a800-7000-8000-000000000001', name: 'set_interval', params: { seconds: 60 }, attempt: 1 };
const answer = JSON.stringify({ commands: [command], more: false });

app.get('/v1/device/commands', (request, reply) => {
  if ((request.query as { limit?: string }).limit === undefined) return reply.code(204).send();
  return reply.type('application/json').send(answer);
});
app.post('/v1/device/commands/:id', (_, reply) => reply.type('application/json').send('{"state":"succeeded"}'));

await app.listen({ host: '127.0.0.1', port: 0 });
ready({ http: app.server.address() });
