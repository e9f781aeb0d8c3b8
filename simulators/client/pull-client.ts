import { createTask, type ScheduledTask } from 'node-cron';
import type { WakeSchedule } from '../../devices/device.ts';
import type { Report } from '../../devices/report.ts';
import type { MetricValue } from '../../devices/telemetry.ts';
import { delay } from './backoff.ts';
import { readCommand } from './read-command.ts';
import { CommandRunner } from './command-runner.ts';
import type { ClientEvents, CommandHandler, Delivery, DeviceClient } from './device-client.ts';
import { ExecutedCommands } from './executed-commands.ts';
import { isWorthRetrying, jsonHttp, problemOf, type HttpAnswer, type JsonHttp } from './json-http.ts';
import { ReportOutbox } from './report-outbox.ts';
import { SampleBuffer } from './sample-buffer.ts';
import { uniqueTs } from './unique-ts.ts';

export type PullClientOptions = {
  /** `http://host:8080`. */
  readonly url: string;
  readonly token: string;
  /** When to wake: a schedule, as `server` the times the server asks for (`Retry-After`), or as `manual` only when `wake()` is called. */
  readonly schedule: WakeSchedule | 'server' | 'manual';
  /** Commands a request, 1..100. */
  readonly limit?: number;
  /** Open one with a file to keep it over restarts; in memory otherwise. */
  readonly executed?: ExecutedCommands;
  readonly events?: ClientEvents;
  /** Another way to send, for tests and simulated faults. */
  readonly fetch?: typeof fetch;
};

/**
 * A device that sleeps, over HTTP. On each wake it sends what it measured and what came of earlier commands, takes what is queued for
 * it, and carries that out. A report is the confirmation here, so a command that takes long is reported as running.
 */
export class PullClient implements DeviceClient {
  readonly #options: PullClientOptions;
  readonly #http: JsonHttp;
  readonly #executed: ExecutedCommands;
  readonly #runner: CommandRunner;
  readonly #reports: ReportOutbox;
  readonly #samples = new SampleBuffer();
  readonly #ts = uniqueTs();
  readonly #stopped = new AbortController();
  #mode: 'new' | 'running' | 'stopped' = 'new';
  #polling: Promise<Answered> | undefined;
  #task: ScheduledTask | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: PullClientOptions) {
    this.#options = options;
    this.#http = jsonHttp({ url: options.url, token: options.token, ...(options.fetch && { fetch: options.fetch }) });
    this.#executed = options.executed ?? new ExecutedCommands();
    this.#runner = new CommandRunner(this.#executed, (commandId, report) => this.#report(commandId, report), {
      runningAfterMs: RUNNING_AFTER_MS,
    });
    this.#reports = new ReportOutbox(this.#http, (...what) => this.#reported(...what), this.#stopped.signal);
  }

  onCommand(name: string, handler: CommandHandler): void {
    this.#runner.handle(name, handler);
  }

  /** Wakes once, then as scheduled. */
  async start(): Promise<void> {
    if (this.#mode !== 'new') throw new Error('a client starts once');
    this.#mode = 'running';
    this.#runner.reportAgain();
    const first = await this.#poll();
    if (first.status === 401) {
      this.#mode = 'stopped';
      throw new Error('the server refuses the token');
    }
    this.#schedule(first);
  }

  telemetry(values: Readonly<Record<string, MetricValue>>, ts?: number): Promise<Delivery> {
    if (this.#mode === 'stopped') return Promise.resolve('dropped');
    return this.#samples.add({ ts: ts ?? this.#ts(), values });
  }

  /**
   * One contact. Resolves with when the server expects the next one, as soon as nothing more is to come by this one and what
   * it brought is carried out and reported (or could not be). A wake during a wake is the same wake.
   */
  async wake(): Promise<{ retryAfterMs: number | undefined }> {
    if (this.#mode !== 'running') throw new Error('the client is not started, or stopped');
    const { retryAfterMs } = await this.#poll();
    await this.#runner.idle();
    await this.#reports.flush();
    return { retryAfterMs };
  }

  async stop(): Promise<void> {
    if (this.#mode === 'stopped') return;
    this.#mode = 'stopped';
    clearTimeout(this.#timer);
    await this.#task?.destroy();
    this.#runner.stop();
    const left = Promise.all([this.#sendAllSamples(), this.#reports.flush()]);
    await Promise.race([left, delay(STOP_MS_MAX)]);
    this.#stopped.abort();
    this.#samples.close();
    await this.#executed.flush().catch((error: Error) => this.#problem(error));
  }

  #schedule(first: Answered): void {
    const { schedule } = this.#options;
    if (schedule === 'manual') return;
    if (schedule === 'server') return this.#wakeIn(first.retryAfterMs);
    if ('cron' in schedule) {
      const task = createTask(schedule.cron, () => this.#wakeBySchedule(), {
        timezone: schedule.timezone ?? 'UTC',
        suppressMissedWarning: true,
      });
      this.#task = task;
      void task.start();
      return;
    }
    this.#timer = setInterval(() => void this.#wakeBySchedule(), schedule.everySeconds * 1_000);
  }

  #wakeIn(retryAfterMs: number | undefined): void {
    if (this.#mode !== 'running') return;
    const ms = Math.min(SLEEP_MS_MAX, Math.max(SLEEP_MS_MIN, retryAfterMs ?? SLEEP_MS_DEFAULT));
    this.#timer = setTimeout(() => void this.#poll().then((answered) => this.#wakeIn(answered.retryAfterMs)), ms);
  }

  async #wakeBySchedule(): Promise<void> {
    if (this.#mode === 'running') await this.#poll();
  }

  #poll(): Promise<Answered> {
    this.#polling ??= this.#pollOnce()
      .catch((error: Error): Answered => {
        this.#problem(error);
        return { status: 0, retryAfterMs: undefined };
      })
      .finally(() => (this.#polling = undefined));
    return this.#polling;
  }

  async #pollOnce(): Promise<Answered> {
    await this.#sendSamples();
    void this.#reports.flush();
    let answer: HttpAnswer | undefined;
    for (let round = 0; round < ROUNDS_A_WAKE && this.#mode === 'running'; round += 1) {
      answer = await this.#http('GET', `/v1/device/commands?limit=${this.#options.limit ?? LIMIT_DEFAULT}`);
      if (answer.status !== 200) break;
      const { commands = [], more = false } = (answer.body ?? {}) as { commands?: unknown[]; more?: boolean };
      for (const given of commands) await this.#take(given);
      if (!more) break;
    }
    if (answer !== undefined && answer.status >= 400) {
      const { code, message } = problemOf(answer);
      this.#problem(new Error(`the server answered ${answer.status} ${code}: ${message}`));
    }
    return { status: answer?.status ?? 0, retryAfterMs: answer?.retryAfterMs ?? sleepMs(answer?.body) };
  }

  async #take(given: unknown): Promise<void> {
    const command = readCommand(given);
    if (command === undefined) return this.#problem(new Error('the server sent something that is no command'));
    this.#options.events?.received?.(command);
    await this.#runner.take(command);
  }

  /** Sends what was measured, as far as the server takes it; what it has no time for now stays for the next wake. */
  async #sendSamples(): Promise<void> {
    for (let batch = this.#samples.take(); batch !== undefined; batch = this.#samples.take()) {
      let answer: HttpAnswer;
      try {
        answer = await this.#http('POST', '/v1/device/telemetry', batch.samples);
      } catch (error) {
        batch.putBack();
        return this.#problem(error as Error);
      }
      if (answer.status < 300) {
        batch.settle('stored');
      } else if (isWorthRetrying(answer.status) || answer.status === 401) {
        batch.putBack();
        return this.#problem(new Error(`telemetry waits: ${problemOf(answer).message}`));
      } else {
        batch.settle('refused');
        this.#problem(new Error(`telemetry was refused: ${problemOf(answer).message}`));
      }
    }
  }

  /** What is left at a stop, also what a wake under way could not send. */
  async #sendAllSamples(): Promise<void> {
    await this.#polling;
    for (;;) {
      await this.#sendSamples();
      if (this.#samples.size === 0 || this.#stopped.signal.aborted) return;
      await delay(STOP_RETRY_MS, this.#stopped.signal);
    }
  }

  #report(commandId: string, report: Report): void {
    if (!this.#stopped.signal.aborted) this.#reports.add(commandId, report);
  }

  #reported(commandId: string, report: Report, delivery: Delivery, code?: string): void {
    if (report.state !== 'running') this.#executed.reported(commandId);
    this.#options.events?.reported?.(commandId, report, delivery, code);
  }

  #problem(error: Error): void {
    this.#options.events?.problem?.(error);
  }
}

/** `status` 0: no answer. */
type Answered = { readonly status: number; readonly retryAfterMs: number | undefined };

const LIMIT_DEFAULT = 20;
/** More than the longest queue a device may have, at the default limit. */
const ROUNDS_A_WAKE = 100;
const RUNNING_AFTER_MS = 1_000;
const SLEEP_MS_DEFAULT = 60_000;
const SLEEP_MS_MIN = 1_000;
const SLEEP_MS_MAX = 86_400_000;
const STOP_MS_MAX = 3_000;
const STOP_RETRY_MS = 200;

function sleepMs(body: unknown): number | undefined {
  const seconds = (body as { sleep?: { untilSeconds?: unknown } } | undefined)?.sleep?.untilSeconds;
  return typeof seconds === 'number' ? seconds * 1_000 : undefined;
}
