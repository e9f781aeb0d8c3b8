import { delay } from './backoff.ts';
import type { DeviceCore } from './device-core.ts';
import { isForLater } from './http-uplink.ts';
import { problemOf, type HttpAnswer, type JsonHttp } from './json-http.ts';
import { LIMIT_DEFAULT, problemError, ROUNDS_MAX, sleepMsOf, takeCommands, type Contact } from './pull-requests.ts';
import type { ReportParcel } from './report-queue.ts';
import type { SampleParcel } from './sample-buffer.ts';

export type SyncOptions = { readonly limit?: number; readonly maxBytes?: number; readonly lingerSeconds?: number };

/**
 * Contacts by `POST /v1/device/sync`: samples, reports and the confirmation of the last answer in one request, commands in its answer. A wake that brings
 * nothing is one trip; one that brings commands has a second, with what came of them.
 */
export class SyncRequests {
  readonly #core: DeviceCore;
  readonly #http: JsonHttp;
  readonly #options: SyncOptions;

  constructor(core: DeviceCore, http: JsonHttp, options: SyncOptions) {
    this.#core = core;
    this.#http = http;
    this.#options = options;
  }

  /** Rejects when there is no answer. */
  async contact(signal: AbortSignal): Promise<Contact> {
    const lingerMs = (this.#options.lingerSeconds ?? LINGER_SECONDS_DEFAULT) * 1_000;
    let brought = 0;
    let answer: HttpAnswer | undefined;
    for (let round = 0; round < ROUNDS_MAX && !signal.aborted; round += 1) {
      const sent = { reports: this.#core.reports.takeMany(REPORTS_A_REQUEST), samples: this.#core.samples.take() };
      answer = await this.#send(sent, signal);
      if (answer.status >= 300) {
        if (this.#settleRefusal(answer, sent)) continue;
        this.#core.problem(problemError(answer));
        break;
      }
      settle(sent, answer);
      const { commands = [], more = false, cursor } = (answer.body ?? {}) as SyncBody;
      const taken = await takeCommands(this.#core, commands);
      if (taken && typeof cursor === 'string') this.#core.executed.cursor = cursor;
      brought += commands.length;
      if (more || this.#core.samples.isWaiting) continue;
      if (commands.length === 0 || lingerMs === 0) break;
      // What is quickly done is reported in this wake; the cursor confirms the rest.
      await Promise.race([this.#core.idle(), delay(lingerMs, signal)]);
    }
    return { status: answer?.status ?? 0, sleepMs: sleepMsOf(answer), brought };
  }

  async #send({ reports, samples }: Sent, signal: AbortSignal): Promise<HttpAnswer> {
    const { limit = LIMIT_DEFAULT, maxBytes } = this.#options;
    const { cursor } = this.#core.executed;
    try {
      return await this.#http(
        'POST',
        '/v1/device/sync',
        {
          limit,
          sentAt: Date.now(),
          ...(maxBytes !== undefined && { maxBytes }),
          ...(cursor !== undefined && { since: cursor }),
          ...(reports.length > 0 && { reports: reports.map(({ commandId, report }) => ({ id: commandId, ...report })) }),
          ...(samples !== undefined && { telemetry: samples.samples }),
        },
        {},
        { signal },
      );
    } catch (error) {
      putBack({ reports, samples });
      throw error;
    }
  }

  /** The server took nothing: drops what is at fault and puts the rest back. True when it is worth asking again at once. */
  #settleRefusal(answer: HttpAnswer, sent: Sent): boolean {
    const { code } = problemOf(answer);
    const { at = '' } = (answer.body ?? {}) as { at?: string };
    const report = sent.reports[Number(/^reports\[(\d+)\]/.exec(at)?.[1] ?? -1)];
    const isLater = isForLater(answer.status);
    if (!isLater && report !== undefined) report.settle('refused', code);
    const isAboutSamples = !isLater && sent.samples !== undefined && (at.startsWith('telemetry') || answer.status === 413);
    if (isAboutSamples) sent.samples?.refused();
    const isAboutCursor = !isLater && code === 'invalid_cursor' && this.#core.executed.cursor !== undefined;
    if (isAboutCursor) this.#core.executed.cursor = undefined;
    // What was settled above stays so.
    putBack(sent);
    return isAboutCursor || isAboutSamples || (!isLater && report !== undefined);
  }
}

type Sent = { readonly reports: readonly ReportParcel[]; readonly samples: SampleParcel | undefined };

type SyncBody = {
  readonly commands?: readonly unknown[];
  readonly more?: boolean;
  readonly cursor?: unknown;
  readonly refused?: readonly { readonly at?: unknown; readonly code?: unknown }[];
};

/** All counts but what the answer names. */
function settle({ reports, samples }: Sent, answer: HttpAnswer): void {
  const { refused = [] } = (answer.body ?? {}) as SyncBody;
  const codes = new Map(refused.map(({ at, code }) => [String(at), String(code)]));
  samples?.settle('stored');
  reports.forEach((parcel, i) => {
    const code = codes.get(`reports[${i}]`);
    if (code === undefined) parcel.settle('stored');
    else parcel.settle('refused', code);
  });
}

function putBack({ reports, samples }: Sent): void {
  for (const parcel of reports.toReversed()) parcel.putBack();
  samples?.putBack();
}

const REPORTS_A_REQUEST = 100;
const LINGER_SECONDS_DEFAULT = 2;
