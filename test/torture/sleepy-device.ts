import { delay } from '../../simulators/client/backoff.ts';
import { jsonHttp, type HttpAnswer, type JsonHttp } from '../../simulators/client/json-http.ts';
import type { Random } from '../../simulators/models/random.ts';
import { ExecutionLog, reportOf } from './execution-log.ts';
import type { Execution, Records } from './records.ts';
import { messageOf, TelemetrySource } from './telemetry-source.ts';
import type { Victim } from './victim.ts';

/** A device on HTTP: sends readings in small batches, pulls, carries out, reports. Whatever gets no answer is sent again. */
const TIMEOUT_MS = 5_000;
const RETRY_MS = 30;
const PULL_EVERY_MS = 100;
const BATCH_MAX = 5;
const WORK_MS_MAX = 300;

export class SleepyDevice {
  readonly id: string;
  readonly #http: () => JsonHttp;
  readonly #random: Random;
  readonly #records: Records;
  readonly #log: ExecutionLog;
  readonly #source: TelemetrySource;
  #producing: Promise<void> | undefined;
  #pulling: Promise<void> | undefined;
  #underWay = 0;

  constructor(id: string, token: string, parts: { victim: Victim; records: Records; random: Random }) {
    this.id = id;
    this.#http = () => jsonHttp({ url: parts.victim.url, token, timeoutMs: TIMEOUT_MS });
    this.#random = parts.random;
    this.#records = parts.records;
    this.#log = new ExecutionLog(parts.records, id, parts.random.fork('ends'));
    this.#source = new TelemetrySource(parts.records, id, parts.random.fork('telemetry'));
  }

  get isDrained(): boolean {
    return this.#underWay === 0;
  }

  /** `everyMs`: a reading, on the average. */
  produce(everyMs: number, signal: AbortSignal, _cuts = 0): void {
    this.#producing = (async () => {
      while (!signal.aborted) {
        const count = this.#random.integer(1, BATCH_MAX);
        await delay(everyMs * count * (0.5 + this.#random.next()), signal);
        if (!signal.aborted) await this.#send(count);
      }
    })();
  }

  pull(signal: AbortSignal): void {
    this.#pulling = (async () => {
      while (!signal.aborted) {
        const answer = await this.#http()('GET', '/v1/device/commands?limit=3').catch(() => undefined);
        if (answer?.status === 200) {
          const { commands } = answer.body as { commands: { id: string }[] };
          for (const { id } of commands) await this.#carryOut(id);
        } else await delay(PULL_EVERY_MS * (0.5 + this.#random.next()), signal);
      }
    })();
  }

  async produced(): Promise<void> {
    await this.#producing;
  }

  async closed(): Promise<void> {
    await this.#pulling;
  }

  /** `count` readings as one message, until it is acknowledged. */
  async #send(count: number): Promise<void> {
    const readings = Array.from({ length: count }, () => this.#source.next('http'));
    // Some readings have no time of their own.
    const headers = { 'idempotency-key': `from-${readings[0]?.n}` };
    const { status } = await this.#untilAnswered(() => {
      for (const reading of readings) reading.tries += 1;
      return this.#http()('POST', '/v1/device/telemetry', readings.map(messageOf), headers);
    });
    if (status !== 202) throw new Error(`telemetry of ${this.id} was answered with ${status}`);
    for (const reading of readings) {
      reading.isAcknowledged = true;
      this.#records.acknowledged();
    }
  }

  async #carryOut(commandId: string): Promise<void> {
    const { execution, isNew } = this.#log.take(commandId);
    if (isNew) await delay(this.#random.between(0, WORK_MS_MAX));
    const { status } = await this.#untilAnswered(() => this.#report(execution));
    if (status === 200) execution.isAcknowledged = true;
    else if (status === 409) execution.isRefused = true;
    else throw new Error(`the report on ${commandId} was answered with ${status}`);
    this.#records.acknowledged();
  }

  #report(execution: Execution): Promise<HttpAnswer> {
    return this.#http()('POST', `/v1/device/commands/${execution.commandId}`, reportOf(execution));
  }

  async #untilAnswered(request: () => Promise<HttpAnswer>): Promise<HttpAnswer> {
    this.#underWay += 1;
    try {
      for (;;) {
        const answer = await request().catch(() => undefined);
        if (answer !== undefined && answer.status < 500) return answer;
        await delay(RETRY_MS * (0.5 + this.#random.next()));
      }
    } finally {
      this.#underWay -= 1;
    }
  }
}
