import { Type } from 'typebox';
import type { Api, ApiParts } from '../api-parts.ts';
import { problems, TAGS } from '../openapi.ts';

/**
 * Is it up, can it do its job, how is it doing. These need no key: probes and scrapers rarely have one, what they show is counts and states of
 * the server itself, with no device's name among them, and the server listens on loopback unless told otherwise.
 */
export function serverRoutes(app: Api, parts: ApiParts): void {
  const tags = [TAGS.server];

  app.get(
    '/healthz',
    {
      exposeHeadRoute: true,
      schema: {
        tags,
        operationId: 'health',
        summary: 'The process is up',
        description: 'No key needed. Says nothing of what the server needs to do its job; that is `/readyz`.',
        response: {
          200: Type.Object({ status: Type.Literal('ok'), version: Type.String() }, { description: 'Up' }),
          ...problems(),
        },
      },
    },
    () => ({ status: 'ok' as const, version: parts.version }),
  );

  const readiness = Type.Object({
    ready: Type.Boolean(),
    reasons: Type.Array(Type.String(), {
      description: 'What keeps the server from doing all of its job, a sentence each; also while it is ready',
    }),
  });
  app.get(
    '/readyz',
    {
      exposeHeadRoute: true,
      schema: {
        tags,
        operationId: 'readiness',
        summary: 'The server takes new work',
        description:
          'No key needed. 503 when new telemetry or commands are refused: the data folder cannot be written, the journal is full, the server is stopping. With ' +
          'InfluxDB away all is taken and queries of the past are not answered: that is 200, and `reasons` says so.',
        response: {
          200: Type.Unsafe<{ ready: boolean; reasons: string[] }>({ ...readiness, description: 'It does' }),
          503: Type.Unsafe<{ ready: boolean; reasons: string[] }>({
            ...readiness,
            description: 'It does not, for these reasons',
          }),
        },
      },
    },
    async (_, reply) => {
      const { isReady, reasons } = await parts.readiness();
      reply.code(isReady ? 200 : 503);
      return { ready: isReady, reasons: [...reasons] };
    },
  );

  app.get(
    '/metrics',
    {
      schema: {
        tags,
        operationId: 'metrics',
        summary: 'Metrics for Prometheus',
        description: 'No key needed: counts and durations only, with no device or key named.',
        response: {
          200: { description: 'Text exposition format', content: { 'text/plain': { schema: Type.String() } } },
          ...problems(),
        },
      },
    },
    async (_, reply) => {
      reply.type(parts.metrics.registry.contentType);
      return parts.metrics.registry.metrics();
    },
  );

  // It takes no key, so it is made once, and before anybody is there who would wait meanwhile.
  let document: Buffer | undefined;
  app.addHook('onReady', (done) => {
    document = Buffer.from(JSON.stringify(app.swagger()));
    done();
  });
  app.get('/openapi.json', { schema: { hide: true } }, (_, reply) => {
    return reply.type('application/json; charset=utf-8').send(document);
  });
  app.get('/', { schema: { hide: true } }, (_, reply) => reply.redirect('/docs'));
}
