import type { Readable } from 'node:stream';
import { Type } from 'typebox';
import type { Api, ApiParts } from '../api-parts.ts';
import { auditedAs } from '../audited.ts';
import { operatorAuth, operatorOf } from '../auth-operator.ts';
import { BY_OPERATOR, guardedProblems, TAGS } from '../openapi.ts';

/** A backup of the running server. For admins alone: it holds everything, the digests of all credentials too. */
const TYPE = 'application/x-ndjson';

export function backupRoutes(app: Api, parts: ApiParts, stopping: AbortSignal): void {
  const { backups, audit, access } = parts;

  app.get(
    '/v1/backup',
    {
      onRequest: operatorAuth(parts, 'admin'),
      schema: {
        tags: [TAGS.server],
        security: BY_OPERATOR,
        operationId: 'takeBackup',
        summary: 'A backup, as of now',
        description:
          'Role: admin. State, and the embedded History where that is in use, as lines of JSON; `npm start -- --restore FILE` brings it back. **It is whole only with its ' +
          'last line**, which has the number of entries and the SHA-256 of all octets before it; `npm run backup` checks that. It holds commands, readings and the ' +
          'digests of all credentials: keep it as you keep keys. One at a time; one that is not read on for 30 s is broken off.',
        querystring: Type.Object(
          { history: Type.Optional(Type.Boolean({ default: true, description: 'With the embedded History' })) },
          { additionalProperties: false },
        ),
        response: {
          200: { description: 'The backup', content: { [TYPE]: { schema: Type.Unsafe<Readable>(Type.String()) } } },
          ...guardedProblems('rate_limited', 'storage_unavailable'),
        },
      },
    },
    async (request, reply) => {
      const { history = true } = request.query;
      backups.assertFree();
      await audit.write(auditedAs(parts, request, 'backup.take')({ id: 'state' }, { history }));
      const stream = backups.begin({ withHistory: history });
      const giveUp = (why: string): unknown => stream.destroy(new Error(why));
      const onStopping = (): unknown => giveUp('the server is stopping');
      const unwatch = access.watch(operatorOf(request), giveUp);
      stopping.addEventListener('abort', onStopping);
      stream.once('close', () => {
        unwatch();
        stopping.removeEventListener('abort', onStopping);
      });
      return reply.type(TYPE).header('cache-control', 'no-store').send(stream);
    },
  );
}
