import type { DeviceCore } from './device-core.ts';
import type { HttpUplink } from './http-uplink.ts';
import { problemOf, type HttpAnswer, type JsonHttp } from './json-http.ts';
import type { Wakened } from './wake-timer.ts';

/** How commands are asked for with `GET /v1/device/commands`; PullLinkOptions tells the ways apart. */
export type Ask = 'plain' | 'conditional' | 'long-poll';

/** One contact. `brought`: commands that came by it. */
export type Contact = Wakened & { readonly brought: number };

/** Contacts by GET: reports and samples go in requests of their own. */
export class PullRequests {
  readonly #core: DeviceCore;
  readonly #http: JsonHttp;
  readonly #uplink: HttpUplink;
  readonly #options: { ask: Ask; limit?: number; maxBytes?: number };
  #etag: string | undefined;

  constructor(core: DeviceCore, http: JsonHttp, uplink: HttpUplink, options: { ask: Ask; limit?: number; maxBytes?: number }) {
    this.#core = core;
    this.#http = http;
    this.#uplink = uplink;
    this.#options = options;
  }

  /**
   * Sends what waits and takes all that is queued. The server may keep the first request for `waitSeconds`, until a command is there. Rejects when there is no
   * answer.
   */
  async contact(waitSeconds: number, signal: AbortSignal): Promise<Contact> {
    // What is sent beside a long poll must not hold it up.
    const samplesSent = this.#uplink.sendSamples();
    if (waitSeconds === 0) await samplesSent;
    void this.#uplink.sendReports();
    let brought = 0;
    let answer: HttpAnswer | undefined;
    for (let round = 0; round < ROUNDS_MAX && !signal.aborted; round += 1) {
      answer = await this.#ask(round === 0 ? waitSeconds : 0, round === 0, signal);
      if (this.#isCursorRefused(answer)) continue;
      // The tag of nothing to take: it holds again as soon as all is taken.
      if (answer.status === 204) this.#etag = answer.etag;
      if (answer.status !== 200) break;
      const { commands = [], more = false, cursor } = (answer.body ?? {}) as PullBody;
      brought += commands.length;
      const taken = await takeCommands(this.#core, commands);
      // Of an answer that is not whole on record, nothing is confirmed by its cursor.
      if (taken && typeof cursor === 'string') this.#core.executed.cursor = cursor;
      if (!more) break;
    }
    if (answer !== undefined && answer.status >= 400) this.#core.problem(problemError(answer));
    return { status: answer?.status ?? 0, sleepMs: sleepMsOf(answer), brought };
  }

  #ask(waitSeconds: number, isFirst: boolean, signal: AbortSignal): Promise<HttpAnswer> {
    const { ask, limit = LIMIT_DEFAULT, maxBytes } = this.#options;
    const query = new URLSearchParams({ limit: String(limit) });
    if (maxBytes !== undefined) query.set('maxBytes', String(maxBytes));
    if (waitSeconds > 0) query.set('wait', String(waitSeconds));
    const { cursor } = this.#core.executed;
    if (ask !== 'plain' && cursor !== undefined) query.set('since', cursor);
    const isConditional = ask === 'conditional' && isFirst && this.#etag !== undefined;
    const headers = isConditional ? { 'if-none-match': this.#etag } : {};
    const timeoutMs = waitSeconds * 1_000 + ANSWER_MS_MAX;
    return this.#http('GET', `/v1/device/commands?${query.toString()}`, undefined, headers as Record<string, string>, {
      timeoutMs,
      signal,
    });
  }

  /** An old or foreign cursor: forgotten. What it would have confirmed comes again, and is known by its id. */
  #isCursorRefused(answer: HttpAnswer): boolean {
    if (answer.status !== 400 || problemOf(answer).code !== 'invalid_cursor') return false;
    if (this.#core.executed.cursor === undefined) return false;
    this.#core.executed.cursor = undefined;
    this.#etag = undefined;
    return true;
  }
}

type PullBody = { readonly commands?: readonly unknown[]; readonly more?: boolean; readonly cursor?: unknown };

/** Resolves with whether all are on record; together, so that they share a write. */
export async function takeCommands(core: DeviceCore, commands: readonly unknown[]): Promise<boolean> {
  const taken = await Promise.all(commands.map((command) => core.take(command, { runningAfterMs: RUNNING_AFTER_MS })));
  return taken.every(Boolean);
}

/** When the server wants to see the device again: `Retry-After`, or `sleep` in the answer. */
export function sleepMsOf(answer: HttpAnswer | undefined): number | undefined {
  if (answer?.retryAfterMs !== undefined) return answer.retryAfterMs;
  const seconds = (answer?.body as { sleep?: { untilSeconds?: unknown } } | undefined)?.sleep?.untilSeconds;
  return typeof seconds === 'number' ? seconds * 1_000 : undefined;
}

export function problemError(answer: HttpAnswer): Error {
  const { code, message } = problemOf(answer);
  return new Error(`the server answered ${answer.status} ${code}: ${message}`);
}

export const LIMIT_DEFAULT = 20;
/** More than the longest queue a device may have, at the default limit. */
export const ROUNDS_MAX = 100;
/** A report is the confirmation where no further request follows soon, so what takes longer is reported as running. */
const RUNNING_AFTER_MS = 1_000;
const ANSWER_MS_MAX = 30_000;
