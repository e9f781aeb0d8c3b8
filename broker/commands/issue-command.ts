import { createHash } from 'node:crypto';
import { DAY_MS, SECOND_MS, type Clock } from '../../devices/clock.ts';
import {
  ATTEMPTS_MAX_DEFAULT,
  EXPIRES_SECONDS_DEFAULT,
  OPEN_COMMANDS_MAX,
  PARAMS_BYTES_MAX,
  PAYLOAD_BYTES_MAX,
  REPORT_TIMEOUT_SECONDS_DEFAULT,
  type Command,
  type Condition,
  type Confirm,
  type Priority,
} from '../../devices/command.ts';
import { isOrderOp } from '../../devices/condition.ts';
import type { Device } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { infiniteAt, type JsonValue } from '../../devices/json.ts';
import { expectedWakeAt, nthExpectedWakeAt } from '../../devices/expected-wakes.ts';
import { isMetricName, STRING_BYTES_MAX } from '../../devices/telemetry.ts';
import { hasSchedule } from '../../devices/wake-slot.ts';
import type { PresenceTracker } from '../registry/presence-tracker.ts';
import { NO_ADDITION, type Addition, type Change, type State } from '../store/state.ts';
import { valueAt, valuesUnder } from '../store/values.ts';
import type { CommandLedger } from './command-ledger.ts';

/** Issuing: checks what an operator asks for, makes the command durable, and lets it take the place of older ones with its key. */

export type Expires = { readonly at: number } | { readonly inSeconds: number } | { readonly wakes: number };

export type CommandRequest = {
  readonly name: string;
  readonly params?: JsonValue;
  /** base64 */
  readonly payload?: string;
  readonly contentType?: string;
  readonly priority?: Priority;
  readonly key?: string;
  readonly confirm?: Confirm;
  readonly notBefore?: number;
  readonly expires?: Expires;
  readonly reportTimeoutSeconds?: number;
  readonly maxAttempts?: number;
  readonly condition?: Condition;
  /** Issue it also if it would expire before the device next wakes. */
  readonly force?: boolean;
};

const IDEMPOTENCY = 'idempotency/';
export const IDEMPOTENCY_KEPT_MS = DAY_MS;
const QUEUE_RETRY_SECONDS = 60;

type Remembered = { readonly bodyDigest: string; readonly commandId: string; readonly at: number };

export class CommandIssuer {
  readonly #ledger: CommandLedger;
  readonly #presence: PresenceTracker;
  readonly #state: State;
  readonly #clock: Clock;
  readonly #newId: () => string;
  /** Commands on their way to the disk, which count towards the queue's bound. */
  readonly #underWay = new Map<string, number>();
  readonly #keysUnderWay = new Map<string, { bodyDigest: string; issued: Promise<{ command: Command }> }>();

  constructor(ledger: CommandLedger, presence: PresenceTracker, state: State, clock: Clock, newId: () => string) {
    this.#ledger = ledger;
    this.#presence = presence;
    this.#state = state;
    this.#clock = clock;
    this.#newId = newId;
  }

  /**
   * Resolves once the command is durable, and `also` with it. With an idempotency key, the same request again gives the same command (`isRepeat`).
   * Throws `invalid_request`, `queue_full`, `expires_before_next_wake`, `idempotency_conflict`, `journal_full`, `storage_unavailable`.
   */
  async issue(
    device: Device,
    request: CommandRequest,
    idempotencyKey?: string,
    also: (command: Command) => Addition = () => NO_ADDITION,
  ): Promise<{ command: Command; isRepeat: boolean }> {
    if (idempotencyKey === undefined) return { command: await this.#issueNew(device, request, also), isRepeat: false };
    const place = `${IDEMPOTENCY}${device.id}/${digestOf(idempotencyKey)}`;
    const bodyDigest = digestOf(canonical(request));
    const underWay = this.#keysUnderWay.get(place);
    if (underWay !== undefined) {
      assertSameBody(underWay.bodyDigest, bodyDigest);
      return { command: (await underWay.issued).command, isRepeat: true };
    }
    const issued = this.#issueOnce(device, request, { place, bodyDigest }, also);
    this.#keysUnderWay.set(place, { bodyDigest, issued });
    try {
      return await issued;
    } finally {
      this.#keysUnderWay.delete(place);
    }
  }

  /** Forgets idempotency keys that are over a day old. */
  async sweep(): Promise<void> {
    const old = this.#clock.now() - IDEMPOTENCY_KEPT_MS;
    for await (const [key, { at }] of valuesUnder<Remembered>(this.#state, IDEMPOTENCY)) {
      if (at < old) await this.#state.commit([{ del: key }], []);
    }
  }

  async #issueOnce(
    device: Device,
    request: CommandRequest,
    { place, bodyDigest }: { place: string; bodyDigest: string },
    also: (command: Command) => Addition,
  ): Promise<{ command: Command; isRepeat: boolean }> {
    const remembered = await valueAt<Remembered>(this.#state, place);
    if (remembered !== undefined) {
      const isFresh = remembered.at >= this.#clock.now() - IDEMPOTENCY_KEPT_MS;
      const command = isFresh ? await this.#ledger.find(remembered.commandId) : undefined;
      if (command !== undefined) {
        assertSameBody(remembered.bodyDigest, bodyDigest);
        return { command, isRepeat: true };
      }
    }
    const remember = (commandId: string): Change => ({
      put: place,
      value: JSON.stringify({ bodyDigest, commandId, at: this.#clock.now() } satisfies Remembered),
    });
    const alsoRemembered = (command: Command): Addition => {
      const { changes, entries } = also(command);
      return { changes: [remember(command.id), ...changes], entries };
    };
    return { command: await this.#issueNew(device, request, alsoRemembered), isRepeat: false };
  }

  async #issueNew(device: Device, request: CommandRequest, also: (command: Command) => Addition): Promise<Command> {
    const command = this.#build(device, request);
    const underWay = this.#underWay.get(device.id) ?? 0;
    if (this.#ledger.book.countOf(device.id) + underWay >= OPEN_COMMANDS_MAX) {
      throw new DownlinkError('queue_full', `${device.id} has ${OPEN_COMMANDS_MAX} open commands, as many as it may`, {
        retryAfterSeconds: QUEUE_RETRY_SECONDS,
      });
    }
    this.#underWay.set(device.id, underWay + 1);
    try {
      const { changes, entries } = also(command);
      await this.#ledger.add(command, changes, entries);
    } finally {
      const left = (this.#underWay.get(device.id) ?? 1) - 1;
      if (left === 0) this.#underWay.delete(device.id);
      else this.#underWay.set(device.id, left);
    }
    if (command.key !== undefined) this.#supersedeOlder(command);
    return this.#ledger.book.get(command.id) ?? command;
  }

  #build(device: Device, request: CommandRequest): Command {
    const { force: _, expires, payload, params, ...asked } = request;
    assertSizes(request);
    if (request.condition !== undefined) assertCondition(request.condition);
    const now = this.#clock.now();
    const from = Math.max(now, request.notBefore ?? now);
    let expiresAt: number | undefined;
    if (expires === undefined) expiresAt = from + EXPIRES_SECONDS_DEFAULT * SECOND_MS;
    else if ('at' in expires) expiresAt = expires.at;
    else if ('inSeconds' in expires) expiresAt = now + expires.inSeconds * SECOND_MS;
    else if (hasSchedule(device.wake)) {
      const last = nthExpectedWakeAt(device, this.#presence.contacts(device.id), expires.wakes, from);
      expiresAt = last === undefined ? undefined : last + device.graceSeconds * SECOND_MS;
    }
    if (expiresAt !== undefined && expiresAt <= from) {
      throw new DownlinkError('invalid_request', 'expires: the command would be expired before it may go out', { at: 'expires' });
    }
    if (!request.force) this.#assertWakesInTime(device, from, expiresAt);
    return {
      id: this.#newId(),
      deviceId: device.id,
      ...asked,
      ...(payload === undefined
        ? { params: params === undefined ? {} : params }
        : { payload, contentType: request.contentType ?? 'application/octet-stream' }),
      priority: request.priority ?? 'normal',
      confirm: request.confirm ?? 'result',
      ...(expiresAt !== undefined && { expiresAt }),
      ...(expires !== undefined && 'wakes' in expires && { expiresWakes: expires.wakes }),
      reportTimeoutSeconds: request.reportTimeoutSeconds ?? REPORT_TIMEOUT_SECONDS_DEFAULT,
      maxAttempts: request.maxAttempts ?? ATTEMPTS_MAX_DEFAULT,
      queuedAt: now,
      historyNs: this.#ledger.nextNs(now),
      state: 'queued',
      attempts: 0,
      wakes: 0,
    };
  }

  /** `expiresAt` is absent where only wakes count. */
  #assertWakesInTime(device: Device, from: number, expiresAt = Number.POSITIVE_INFINITY): void {
    const contacts = this.#presence.contacts(device.id);
    if (!hasSchedule(device.wake) || contacts.sessions > 0 || contacts.parked > 0) return;
    const wakeAt = expectedWakeAt(device, contacts, from);
    if (wakeAt !== undefined && wakeAt < expiresAt) return;
    if (wakeAt === undefined) {
      const message = `by its schedule ${device.id} never wakes again; change its schedule or use force`;
      throw new DownlinkError('expires_before_next_wake', message, { at: 'expires' });
    }
    const expiresInSecondsMin = Math.floor((wakeAt - this.#clock.now()) / SECOND_MS) + 1;
    throw new DownlinkError(
      'expires_before_next_wake',
      `the command expires at ${new Date(expiresAt).toISOString()}, but ${device.id} wakes at ${new Date(wakeAt).toISOString()}; ` +
        `let it expire in ${expiresInSecondsMin} seconds or more, or use force`,
      { at: 'expires', remedy: { nextWakeAt: wakeAt, expiresInSecondsMin } },
    );
  }

  #supersedeOlder(newer: Command): void {
    for (const older of [...this.#ledger.book.of(newer.deviceId)]) {
      if (older.key === newer.key && older.id < newer.id) this.#ledger.tryStep(older.id, { type: 'supersede', by: newer.id });
    }
  }
}

function assertSizes({ params, payload, contentType }: CommandRequest): void {
  if (payload !== undefined && params !== undefined) {
    throw new DownlinkError('invalid_request', 'payload and params exclude each other', { at: 'payload' });
  }
  if (contentType !== undefined && payload === undefined) {
    throw new DownlinkError('invalid_request', 'contentType goes with payload', { at: 'contentType' });
  }
  if (params !== undefined && Buffer.byteLength(JSON.stringify(params)) > PARAMS_BYTES_MAX) {
    throw new DownlinkError('invalid_request', `params takes at most ${PARAMS_BYTES_MAX} bytes as JSON`, { at: 'params' });
  }
  const infinite = infiniteAt(params, 'params')?.slice(0, 80);
  if (infinite !== undefined) throw new DownlinkError('invalid_request', `${infinite} is not a finite number`, { at: infinite });
  if (payload === undefined) return;
  const octets = Buffer.from(payload, 'base64');
  if (octets.toString('base64') !== payload) {
    throw new DownlinkError('invalid_request', 'payload is base64 (RFC 4648, with padding)', { at: 'payload' });
  }
  if (octets.length > PAYLOAD_BYTES_MAX) {
    throw new DownlinkError('invalid_request', `payload takes at most ${PAYLOAD_BYTES_MAX} octets`, { at: 'payload' });
  }
}

function assertCondition({ metric, op, value }: Condition): void {
  if (!isMetricName(metric)) {
    throw new DownlinkError(
      'invalid_request',
      'condition.metric is no metric name: a letter or _, then up to 63 of A-Z a-z 0-9 _ . -',
      { at: 'condition.metric' },
    );
  }
  if (isOrderOp(op) && typeof value !== 'number') {
    const message = `condition.op ${op} compares numbers; a ${typeof value} is compared by = or !=`;
    throw new DownlinkError('invalid_request', message, { at: 'condition.op' });
  }
  if (typeof value === 'string' && Buffer.byteLength(value) > STRING_BYTES_MAX) {
    const message = `condition.value takes at most ${STRING_BYTES_MAX} bytes, as a reading does`;
    throw new DownlinkError('invalid_request', message, { at: 'condition.value' });
  }
}

function assertSameBody(had: string, given: string): void {
  if (had === given) return;
  throw new DownlinkError('idempotency_conflict', 'this Idempotency-Key came before with another body', {
    at: 'Idempotency-Key',
  });
}

function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('base64url');
}

/** JSON text that is the same for the same fields in whatever order. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
