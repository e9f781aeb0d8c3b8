import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ParkedPoll, ParkEnd } from '../broker/commands/parked-polls.ts';
import type { PullRequest, QueueTag } from '../broker/commands/pull.ts';
import { SECOND_MS } from '../devices/clock.ts';
import type { Command } from '../devices/command.ts';
import type { Device } from '../devices/device.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';
import { deviceOf } from './auth-device.ts';
import { isConditional, isNotModified, lastModifiedOf } from './conditional.ts';
import { endAfterAnswer, goingOf, hasGone, onLost } from './departure.ts';
import { answerEncoderFor, answerFormatOf, type AnswerEncoder, type AnswerFormat } from './device-answer.ts';
import { PULL_DEFAULT } from './pull-parameters.ts';

/**
 * One poll of a device, from its arrival to its answer: confirm, then lease and answer, or park and answer later. It has few fields and no closure but one,
 * since thousands may be parked.
 */
export type PollQuery = {
  readonly limit?: number;
  readonly maxBytes?: number;
  /** Seconds. */
  readonly wait?: number;
  readonly since?: string;
};

type PollStatus = '200' | '204' | '304';

type PollParts = Pick<ApiParts, 'pull' | 'parkedPolls' | 'presence' | 'registry' | 'limits' | 'clock'> & {
  /** Counts of answers. */
  readonly polls: Readonly<Record<PollStatus, { inc(): void }>>;
};

/** What a poll that cannot be parked is told to wait at the least: the bound is a sign of many clients, or of one that runs wild. */
const REFUSED_SECONDS_MIN = 5;
const BOUND_OF = { server: 'parked_polls', device: 'parked_polls_per_device' } as const;

export class DevicePoll implements ParkedPoll {
  readonly deviceId: string;
  readonly #parts: PollParts;
  readonly #request: FastifyRequest;
  readonly #reply: FastifyReply;
  readonly #query: PollQuery;
  readonly #onClose = (): void => this.#parts.parkedPolls.leave(this);

  constructor(parts: PollParts, request: FastifyRequest, reply: FastifyReply, query: PollQuery) {
    this.#parts = parts;
    this.#request = request;
    this.#reply = reply;
    this.#query = query;
    this.deviceId = deviceOf(request).id;
  }

  /** Answers, now or later. Throws `invalid_cursor` before anything changes. */
  begin(): void {
    const { pull, presence } = this.#parts;
    const { since } = this.#query;
    const device = deviceOf(this.#request);
    if (since === undefined) {
      pull.arrive(device);
      return this.#decide();
    }
    presence.contact(device.id);
    const acknowledged = pull.confirmThrough(device, since);
    pull.arrive(device);
    // What the answer acknowledges by its coming is to be on disk before.
    acknowledged.then(() => this.#decide()).catch((error: unknown) => void this.#reply.send(error));
  }

  offer(): boolean {
    try {
      if (!this.#lease()) return false;
    } catch (error) {
      void this.#reply.send(error);
    }
    this.#unpark();
    return true;
  }

  end(end: ParkEnd): void {
    this.#unpark();
    switch (end.why) {
      case 'waited':
        return this.#answerNothing();
      case 'stopping':
        endAfterAnswer(this.#reply);
        return this.#answerNothing(end.retrySeconds);
      case 'credential_gone':
        void this.#reply.send(new DownlinkError('unauthorized', 'the token was withdrawn while the poll waited'));
    }
  }

  #decide(): void {
    const { pull, parkedPolls, presence, limits, clock } = this.#parts;
    if (hasGone(this.#reply)) return;
    if (!this.#isNotModified() && this.#lease()) return;
    const waitSeconds = this.#query.wait ?? 0;
    if (waitSeconds === 0) return this.#answerNothing();
    const refusal = parkedPolls.park(this, waitSeconds * SECOND_MS);
    if (refusal === undefined) {
      goingOf(this.#reply).once('close', this.#onClose);
    } else {
      if (refusal !== 'stopping') limits.reached(BOUND_OF[refusal], { device: this.deviceId });
      // As if it had been parked: coming back sooner would find the same.
      const seconds = Math.max(pull.sleep(this.#device, false).untilSeconds, waitSeconds, REFUSED_SECONDS_MIN);
      presence.promise(this.deviceId, clock.now() + seconds * SECOND_MS);
      this.#answerNothing(seconds);
    }
  }

  /** True when commands were leased, and answered with. */
  #lease(): boolean {
    const { pull } = this.#parts;
    const device = this.#device;
    if (!pull.hasLeasable(device.id)) return false;
    const validators = this.#validators();
    const encoder = answerEncoderFor(this.#request);
    const pulled = pull.lease(device, pullRequestOf(this.#query, encoder), false);
    if (pulled.commands.length === 0) return false;
    releaseIfLost(this.#reply, this.#parts, pulled.commands);
    pull.noteTaken(device.id, validators);
    this.#head(pulled.sleep.untilSeconds, validators, '200');
    encoder.send(this.#reply, 200, pulled);
    return true;
  }

  #answerNothing(retrySeconds?: number): void {
    const untilSeconds = retrySeconds ?? this.#parts.pull.sleep(this.#device, false).untilSeconds;
    const status = this.#isNotModified() ? 304 : 204;
    this.#head(untilSeconds, this.#validators(), status === 304 ? '304' : '204');
    void this.#reply.code(status).send();
  }

  #head(untilSeconds: number, { etag, lastChangeAt }: QueueTag, status: PollStatus): void {
    this.#parts.polls[status].inc();
    void this.#reply.headers({
      'retry-after': untilSeconds,
      etag,
      'last-modified': lastModifiedOf(lastChangeAt, this.#parts.clock.now()),
      // A cache on the way would hand a command out again and again.
      'cache-control': 'no-store',
      vary: 'accept',
    });
  }

  #isNotModified(): boolean {
    const { headers } = this.#request;
    if (!isConditional(headers)) return false;
    // A date does not tell one kind of answer from another, as tags do: while there is anything, it is looked at.
    if (headers['if-none-match'] === undefined && this.#parts.pull.hasLeasable(this.deviceId)) return false;
    return isNotModified(headers, this.#validators(), this.#parts.clock.now());
  }

  #validators(): QueueTag {
    const { maxBytes, limit = PULL_DEFAULT } = this.#query;
    // Where octets are bounded, what is too large is passed over, however far that goes.
    if (maxBytes !== undefined) return this.#parts.pull.tag(this.#device, `${this.#format}:${maxBytes}`);
    return this.#parts.pull.tag(this.#device, this.#format, limit);
  }

  get #format(): AnswerFormat {
    return answerFormatOf(this.#request);
  }

  /** As it is now: it may have been changed while the poll was parked. */
  get #device(): Device {
    return this.#parts.registry.find(this.deviceId) ?? deviceOf(this.#request);
  }

  #unpark(): void {
    goingOf(this.#reply).off('close', this.#onClose);
  }
}

/** What to lease for an answer of this encoder. */
export function pullRequestOf({ limit, maxBytes }: Pick<PollQuery, 'limit' | 'maxBytes'>, encoder: AnswerEncoder): PullRequest {
  return {
    limit: limit ?? PULL_DEFAULT,
    ...(maxBytes !== undefined && { maxBytes }),
    sizeOf: encoder.sizeOf,
    envelopeBytes: encoder.envelopeBytes,
  };
}

/** Has the commands offered again at once when their answer never leaves, because the client has gone. Call it before the answer is sent. */
export function releaseIfLost(reply: FastifyReply, { pull }: Pick<ApiParts, 'pull'>, commands: readonly Command[]): void {
  if (hasGone(reply)) return pull.release(commands);
  // It may be kept for as long as the connection is idle, and what the commands carry need not be.
  const handedOver = commands.map(({ id, handover = 0 }) => ({ id, handover }));
  onLost(reply, () => pull.release(handedOver));
}
