import { backoffMs, delay } from './backoff.ts';
import type { DeviceCore } from './device-core.ts';
import { isWorthRetrying, problemOf, type HttpAnswer, type JsonHttp } from './json-http.ts';
import type { ReportParcel } from './report-queue.ts';
import type { Sent } from './steadily.ts';

/** Takes reports and samples to the server over HTTP, a request at a time of each. What could not be had stays for the next call. */
export class HttpUplink {
  readonly #core: DeviceCore;
  readonly #http: JsonHttp;
  readonly #stop: AbortSignal;
  #sendingSamples: Promise<Sent> | undefined;
  #sendingReports: Promise<Sent> | undefined;

  /** Requests are no longer repeated when `stop` is aborted. */
  constructor(core: DeviceCore, http: JsonHttp, stop: AbortSignal) {
    this.#core = core;
    this.#http = http;
    this.#stop = stop;
  }

  /** Sends all samples that wait, as far as the server takes them now. */
  sendSamples(): Promise<Sent> {
    this.#sendingSamples ??= this.#sendSamples().finally(() => (this.#sendingSamples = undefined));
    return this.#sendingSamples;
  }

  /** Sends all reports that wait, also with some patience. Resolves when they are through, or when the server could not be had for a while. */
  sendReports(): Promise<Sent> {
    this.#sendingReports ??= this.#sendReports().finally(() => (this.#sendingReports = undefined));
    return this.#sendingReports;
  }

  async #sendSamples(): Promise<Sent> {
    // In a later turn, so that what a program measures at once goes in one message.
    await Promise.resolve();
    for (let parcel = this.#core.samples.take(); parcel !== undefined; parcel = this.#core.samples.take()) {
      let answer: HttpAnswer;
      try {
        answer = await this.#http('POST', '/v1/device/telemetry', parcel.samples);
      } catch (error) {
        parcel.putBack();
        this.#core.problem(error as Error);
        return { isAll: false };
      }
      if (answer.status < 300) {
        parcel.settle('stored');
      } else if (isForLater(answer.status)) {
        parcel.putBack();
        this.#core.problem(new Error(`telemetry waits: ${problemOf(answer).message}`));
        return { isAll: false, retryAfterMs: answer.retryAfterMs };
      } else {
        if (parcel.samples.length === 1) this.#core.problem(new Error(`telemetry was refused: ${problemOf(answer).message}`));
        parcel.refused();
      }
    }
    return { isAll: true };
  }

  async #sendReports(): Promise<Sent> {
    // In a later turn, so that a call made while a report is added is known before it ends.
    await Promise.resolve();
    let failures = 0;
    for (let parcel = this.#core.reports.take(); parcel !== undefined; parcel = this.#core.reports.take()) {
      const answer = await this.#sendReport(parcel);
      if (answer !== undefined && !isForLater(answer.status)) {
        failures = 0;
        if (answer.status < 300) parcel.settle('stored');
        else parcel.settle('refused', problemOf(answer).code);
        continue;
      }
      parcel.putBack();
      failures += 1;
      const retryAfterMs = answer?.retryAfterMs;
      if (failures >= FAILURES_A_CALL || this.#stop.aborted) return { isAll: false, retryAfterMs };
      await delay(Math.min(retryAfterMs ?? backoffMs(failures - 1, RETRY), RETRY.maxMs), this.#stop);
    }
    return { isAll: true };
  }

  async #sendReport({ commandId, report }: ReportParcel): Promise<HttpAnswer | undefined> {
    try {
      return await this.#http('POST', `/v1/device/commands/${encodeURIComponent(commandId)}`, report);
    } catch {
      return undefined;
    }
  }
}

/** A token that was good once may be so again (a server restored from a backup): nothing is given up for it. */
export function isForLater(status: number): boolean {
  return isWorthRetrying(status) || status === 401;
}

const FAILURES_A_CALL = 5;
/** One answer that was lost is soon asked for again; a server that is away is not. */
const RETRY = { minMs: 100, maxMs: 10_000 };
