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
    reasons: Type.Array(Type.String(), { description: 'What keeps the server from doing all of its job, a sentence each' }),
  });
  app.get(
    '/readyz',
    {
      exposeHeadRoute: true,
      schema: {
        tags,
        operationId: 'readiness',
        summary: 'The server can do its job',
        description: 'No key needed.',
        response: {
          200: Type.Unsafe<{ ready: boolean; reasons: string[] }>({ ...readiness, description: 'It can' }),
          503: Type.Unsafe<{ ready: boolean; reasons: string[] }>({ ...readiness, description: 'It cannot, for these reasons' }),
        },
      },
    },
    async (_, reply) => {
      const reasons = await parts.problems();
      reply.code(reasons.length === 0 ? 200 : 503);
      return { ready: reasons.length === 0, reasons };
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

  app.get('/openapi.json', { schema: { hide: true } }, () => app.swagger());
  app.get('/', { schema: { hide: true } }, (_, reply) => reply.redirect('/docs'));
}
