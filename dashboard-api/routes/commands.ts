import type { FastifyRequest } from 'fastify';
import { Type, type Static } from 'typebox';
import type { CommandRequest, Expires } from '../../broker/commands/issue-command.ts';
import { outcomeOf } from '../../broker/commands/outcome.ts';
import { cancelAllOf, cancelCommand } from '../../broker/commands/report-command.ts';
import { SECOND_MS } from '../../devices/clock.ts';
import { COMMAND_STATES, isEnded, OPEN_STATES, PRIORITIES, type Command, type CommandState } from '../../devices/command.ts';
import { deviceIdSchema } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { JsonValue } from '../../devices/json.ts';
import type { Api, ApiParts } from '../api-parts.ts';
import { auditedAs } from '../audited.ts';
import { operatorAuth, operatorOf } from '../auth-operator.ts';
import { commandSchema, commandViewNow, conditionSchema } from '../command-view.ts';
import { cursorOf, nsPlaceOf, PAGE_DEFAULT } from '../cursor.ts';
import {
  BY_OPERATOR,
  cursorField,
  guardedProblems,
  JSON_BODY_PROBLEMS,
  pageParameters,
  refTo,
  TAGS,
  timeParameter,
} from '../openapi.ts';
import { idempotencyKeyHeader } from '../idempotency-key.ts';
import { msOf, nsOf, TIME_NS_MAX } from '../times.ts';

/** Operators' routes for commands: issue, list, show, cancel. */
const timeOrMs = (description: string) =>
  Type.Unsafe<string | number>({
    type: ['string', 'integer'],
    maxLength: 64,
    description: `${description}; RFC 3339 or epoch milliseconds`,
  });

const SECONDS_MAX = 315_360_000;

const newCommandSchema = Type.Object(
  {
    name: Type.String({
      pattern: '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$',
      description: '1..64 of A-Z a-z 0-9 _ . : - that start with a letter, digit or _',
    }),
    params: Type.Optional(Type.Unsafe<JsonValue>({ description: 'Any JSON, at most 32 KiB' })),
    payload: Type.Optional(Type.String({ description: 'Octets as base64, at most 32 KiB, in place of params' })),
    contentType: Type.Optional(
      Type.String({ pattern: '^[\\x20-\\x7e]{1,255}$', description: "The payload's media type, 1..255 ASCII characters" }),
    ),
    priority: Type.Optional(Type.Enum([...PRIORITIES], { default: 'normal' })),
    key: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 128,
        description: 'Takes the place of undelivered commands of the device with the same key',
      }),
    ),
    confirm: Type.Optional(
      Type.Enum(['result', 'delivery'], {
        default: 'result',
        description: 'What ends the command well: the report, or that the device has it',
      }),
    ),
    notBefore: Type.Optional(timeOrMs('Hand it over no earlier')),
    expires: Type.Optional(
      Type.Object(
        {
          at: Type.Optional(timeOrMs('At this time')),
          inSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: SECONDS_MAX })),
          wakes: Type.Optional(
            Type.Integer({ minimum: 1, maximum: 1_000, description: 'After it was offered on so many wakes' }),
          ),
        },
        {
          additionalProperties: false,
          minProperties: 1,
          maxProperties: 1,
          description: 'Exactly one of the three; 24 h when absent',
        },
      ),
    ),
    reportTimeoutSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 604_800, default: 300 })),
    maxAttempts: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 10 })),
    condition: Type.Optional(conditionSchema),
    force: Type.Optional(
      Type.Boolean({ default: false, description: 'Issue it even if it expires before the device next wakes' }),
    ),
  },
  {
    additionalProperties: false,
    examples: [{ name: 'set_interval', params: { seconds: 900 }, key: 'interval', expires: { inSeconds: 3_600 } }],
  },
);

const stateParameter = Type.Array(Type.Enum([...COMMAND_STATES, 'open']), {
  description: '`open` stands for queued, sent, delivered and running; repeated, any may match',
});

const byDevice = Type.Object({ id: deviceIdSchema });
const byId = Type.Object({ id: Type.String({ maxLength: 128 }) });

/** `stopping` aborts when the server stops: whoever waits for an outcome is then answered with what is known. */
export function commandsRoutes(app: Api, parts: ApiParts, stopping: AbortSignal): void {
  const { registry, issuer, ledger, queries } = parts;
  const tags = [TAGS.commands];

  /** The command once it has ended, or as it stands when the wait is over. Throws `unauthorized` when the operator's key goes meanwhile. */
  async function heldBack(request: FastifyRequest, command: Command, waitMs: number): Promise<Command> {
    const gone = new AbortController();
    const release = parts.access.watch(operatorOf(request), (why) => gone.abort(why));
    try {
      const outcome = await outcomeOf(ledger, command, waitMs, AbortSignal.any([request.signal, stopping, gone.signal]));
      if (!gone.signal.aborted) return outcome;
      throw new DownlinkError('unauthorized', `${gone.signal.reason}; the command ${command.id} was issued before`);
    } finally {
      release();
    }
  }

  app.post(
    '/v1/devices/:id/commands',
    {
      onRequest: operatorAuth(parts, 'operator'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'issueCommand',
        summary: 'Issue a command',
        description:
          'Role: operator. Answers once the command is on disk. With an `Idempotency-Key`, the same request again within a day gives the same ' +
          'command, as it then is, and the header `Idempotency-Replayed: true`. With `wait`, the answer is held back until the command has ' +
          'ended: 201, or 202 when it is still open after that many seconds.',
        params: byDevice,
        querystring: Type.Object(
          { wait: Type.Optional(Type.Integer({ minimum: 0, maximum: 60, default: 0, description: 'Seconds' })) },
          { additionalProperties: false },
        ),
        headers: idempotencyKeyHeader,
        body: newCommandSchema,
        response: {
          201: refTo(commandSchema, 'Issued; with `wait`, ended'),
          202: refTo(commandSchema, 'Issued, and still open after `wait`'),
          ...guardedProblems(
            ...JSON_BODY_PROBLEMS,
            'unknown_device',
            'idempotency_conflict',
            'expires_before_next_wake',
            'queue_full',
            'journal_full',
            'storage_unavailable',
          ),
        },
      },
    },
    async (request, reply) => {
      const device = registry.get(request.params.id);
      const { wait = 0 } = request.query;
      const audited = auditedAs(parts, request, 'command.issue');
      const { command, isRepeat } = await issuer.issue(
        device,
        requestOf(request.body),
        request.headers['idempotency-key'],
        (issued) => audited(issued, { device: device.id, name: issued.name }),
      );
      if (registry.find(device.id) === undefined) {
        await cancelAllOf(ledger, device.id);
        registry.get(device.id);
      }
      reply.header('location', `/v1/commands/${command.id}`);
      if (isRepeat) reply.header('idempotency-replayed', 'true');
      const outcome = wait === 0 ? command : await heldBack(request, command, wait * SECOND_MS);
      reply.code(wait === 0 || isEnded(outcome) ? 201 : 202);
      return commandViewNow(parts, outcome);
    },
  );

  app.get(
    '/v1/devices/:id/commands',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'listCommands',
        summary: "List a device's commands, newest first",
        description:
          'Role: viewer. `partial` says that History could not be asked, so that commands which ended over a week ago are missing.',
        params: byDevice,
        querystring: Type.Object(
          {
            state: Type.Optional(stateParameter),
            from: timeParameter('Issued at or after'),
            to: timeParameter('Issued before'),
            ...pageParameters,
          },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object(
            { commands: Type.Array(refTo(commandSchema)), cursor: cursorField, partial: Type.Optional(Type.Literal(true)) },
            { description: 'A page' },
          ),
          ...guardedProblems('invalid_cursor', 'unknown_device'),
        },
      },
    },
    async (request) => {
      const { id } = registry.get(request.params.id);
      const { state, from, to, cursor, limit = PAGE_DEFAULT } = request.query;
      const place = nsPlaceOf('commands', cursor);
      const { commands, nextToNs, isPartial } = await queries.list({
        deviceId: id,
        states: state && statesOf(state),
        fromNs: from === undefined ? 0n : nsOf(from, 'query.from'),
        toNs: place ?? (to === undefined ? TIME_NS_MAX : nsOf(to, 'query.to')),
        limit,
      });
      return {
        commands: commands.map((command) => commandViewNow(parts, command)),
        ...(nextToNs !== undefined && { cursor: cursorOf('commands', nextToNs.toString()) }),
        ...(isPartial && { partial: true as const }),
      };
    },
  );

  app.get(
    '/v1/commands/:id',
    {
      onRequest: operatorAuth(parts, 'viewer'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'showCommand',
        summary: 'Show a command',
        description: 'Role: viewer. Also one of a device that was deleted.',
        params: byId,
        response: { 200: refTo(commandSchema, 'The command'), ...guardedProblems('unknown_command', 'history_unavailable') },
      },
    },
    async (request) => commandViewNow(parts, await queries.get(request.params.id)),
  );

  app.delete(
    '/v1/commands/:id',
    {
      onRequest: operatorAuth(parts, 'operator'),
      schema: {
        tags,
        security: BY_OPERATOR,
        operationId: 'cancelCommand',
        summary: 'Cancel a command',
        description:
          'Role: operator. What the device already has is only cancelled with `force`; the device is not told, and what it then says of the command is ' +
          'refused and kept in its rejects. Cancelling twice is fine.',
        params: byId,
        querystring: Type.Object({ force: Type.Optional(Type.Boolean({ default: false })) }, { additionalProperties: false }),
        response: {
          200: refTo(commandSchema, 'Cancelled'),
          ...guardedProblems('unknown_command', 'command_finished', 'command_delivered', 'storage_unavailable'),
        },
      },
    },
    async (request) => {
      const { force = false } = request.query;
      const audited = auditedAs(parts, request, 'command.cancel');
      const cancelled = await cancelCommand(ledger, request.params.id, force, (command) => {
        // One commit with the cancelling, which tells whether it can be written.
        parts.audit.write(audited(command, { device: command.deviceId, name: command.name, force })).catch(() => {});
      });
      return commandViewNow(parts, cancelled);
    },
  );
}

function requestOf({ expires, notBefore, ...asked }: Static<typeof newCommandSchema>): CommandRequest {
  return {
    ...asked,
    ...(notBefore !== undefined && { notBefore: msOf(notBefore, 'notBefore') }),
    ...(expires !== undefined && { expires: expiresOf(expires) }),
  };
}

function expiresOf({ at, inSeconds, wakes }: NonNullable<Static<typeof newCommandSchema>['expires']>): Expires {
  if (at !== undefined) return { at: msOf(at, 'expires.at') };
  if (inSeconds !== undefined) return { inSeconds };
  if (wakes !== undefined) return { wakes };
  throw new Error('bug: the schema lets no empty expires in');
}

function statesOf(given: readonly string[]): CommandState[] {
  return given.flatMap((state) => (state === 'open' ? [...OPEN_STATES] : [state as CommandState]));
}
