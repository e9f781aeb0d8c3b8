import type { Report } from '../../devices/report.ts';
import type { MetricValue, Sample } from '../../devices/telemetry.ts';
import { CommandRunner } from './command-runner.ts';
import type { ClientCounts, ClientEvents, ClientOptions, CommandHandler, Delivery } from './device-client.ts';
import { ExecutedCommands } from './executed-commands.ts';
import { readCommand } from './read-command.ts';
import { isEnd, ReportQueue } from './report-queue.ts';
import { SampleBuffer } from './sample-buffer.ts';
import { uniqueTs } from './unique-ts.ts';

/**
 * What a device knows and has to say, whichever way it speaks: its handlers, the record of what was carried out, reports and samples on
 * their way. Links (mqtt-link.ts, pull-link.ts, event-link.ts) bring commands here and take away what waits, so that a device may have several, one
 * after the other or at once, and nothing is lost or done twice between them.
 */
export class DeviceCore {
  readonly executed: ExecutedCommands;
  readonly reports: ReportQueue;
  readonly samples: SampleBuffer;
  /** Called when something new waits to be sent. */
  onWaiting: (what: 'report' | 'sample') => void = () => {};
  readonly #runner: CommandRunner;
  readonly #events: ClientEvents;
  readonly #lossMetric: string | false;
  readonly #ts = uniqueTs();
  readonly #counts = { samplesDropped: 0, samplesRefused: 0, reportsDropped: 0, reportsRefused: 0 };
  #samplesDroppedTold = 0;
  /** Ends were dropped from the queue: they are on record, and queued again when there is room. */
  #hasSpilledEnds = false;
  #mode: 'open' | 'closing' | 'closed' = 'open';

  constructor(options: ClientOptions) {
    this.#events = options.events ?? {};
    this.#lossMetric = options.lossMetric ?? LOSS_METRIC_DEFAULT;
    this.executed = options.executed ?? new ExecutedCommands();
    this.reports = new ReportQueue((...what) => this.#reported(...what));
    this.samples = new SampleBuffer(options.buffer);
    this.#runner = new CommandRunner(this.executed, (commandId, report) => this.#report(commandId, report));
  }

  handle(name: string, handler: CommandHandler): void {
    this.#runner.handle(name, handler);
  }

  /** Queues what an earlier run could not report. */
  reportAgain(): void {
    this.#runner.reportAgain();
  }

  async telemetry(values: Readonly<Record<string, MetricValue>>, ts?: number): Promise<Delivery> {
    if (this.#mode !== 'open') return 'dropped';
    return this.#send({ ts: ts ?? this.#ts(), values: { ...values } });
  }

  /**
   * A command as it came over the wire. Resolves with whether it may be confirmed: true when it is on record, false for one that came while stopping,
   * which is to come again. `runningAfterMs`: one not done by then is reported as running, for ways on which a report is the confirmation.
   */
  async take(given: unknown, options: { runningAfterMs?: number } = {}): Promise<boolean> {
    if (this.#mode !== 'open') return false;
    const command = readCommand(given);
    if (command === undefined) {
      this.problem(new Error('the server sent something that is no command'));
      return true;
    }
    this.tell('received', command);
    await this.#runner.take(command, options);
    return true;
  }

  /** The server says that it would not take a report, beside the acknowledgement of the message. */
  refusedAfterwards(commandId: string, code: string): void {
    const report = this.executed.state(commandId);
    if (typeof report === 'string') return;
    this.#counts.reportsRefused += 1;
    this.tell('reported', commandId, report, 'refused', code);
  }

  /** Calls the program's listener. What it throws is a problem of its own, and stops nothing here. */
  tell<Name extends keyof ClientEvents>(name: Name, ...what: Parameters<NonNullable<ClientEvents[Name]>>): void {
    try {
      (this.#events[name] as ((...what: unknown[]) => void) | undefined)?.(...what);
    } catch (error) {
      if (name !== 'problem') this.problem(new Error(`the listener of ${name} threw`, { cause: error }));
    }
  }

  problem(error: Error): void {
    this.tell('problem', error);
  }

  get counts(): ClientCounts {
    return { ...this.#counts, samplesWaiting: this.samples.size, reportsWaiting: this.reports.size };
  }

  get hasNothingToSay(): boolean {
    return this.samples.size === 0 && this.reports.size === 0;
  }

  /** Resolves when all commands begun so far have ended. */
  idle(): Promise<void> {
    return this.#runner.idle();
  }

  /** No more commands and samples; handlers are told to stop, and what they still say is sent by the links as long as these last. */
  beginStop(): void {
    this.#mode = 'closing';
    this.#runner.stop();
  }

  /** Gives up what could not be sent. Ends of commands stay on record, for the next start. */
  async close(): Promise<void> {
    this.#mode = 'closed';
    this.samples.close();
    this.reports.close();
    await this.executed.flush().catch((error: Error) => this.problem(error));
  }

  #report(commandId: string, report: Report): void {
    if (this.#mode === 'closed') return;
    this.reports.add(commandId, report);
    this.onWaiting('report');
  }

  #reported(commandId: string, report: Report, delivery: Delivery, code?: string): void {
    if (delivery === 'dropped') {
      this.#counts.reportsDropped += 1;
      if (isEnd(report) && this.#mode !== 'closed') this.#hasSpilledEnds = true;
    } else if (isEnd(report)) this.executed.reported(commandId);
    if (delivery === 'refused') this.#counts.reportsRefused += 1;
    this.tell('reported', commandId, report, delivery, code);
    if (!this.#hasSpilledEnds || this.reports.size > 0 || this.#mode !== 'open') return;
    this.#hasSpilledEnds = false;
    this.reportAgain();
  }

  async #send(sample: Sample): Promise<Delivery> {
    const sent = this.samples.add(sample);
    this.onWaiting('sample');
    const delivery = await sent;
    if (delivery === 'refused') this.#counts.samplesRefused += 1;
    else if (delivery === 'dropped') this.#dropped();
    else this.#tellLosses();
    return delivery;
  }

  #dropped(): void {
    const isFirst = this.#counts.samplesDropped === this.#samplesDroppedTold;
    this.#counts.samplesDropped += 1;
    if (isFirst && this.#mode !== 'closed') this.problem(new Error('samples are dropped: more wait than are kept'));
  }

  /** The server learns of a gap as soon as it takes samples again. */
  #tellLosses(): void {
    const { samplesDropped } = this.#counts;
    if (samplesDropped === this.#samplesDroppedTold || this.#mode !== 'open') return;
    this.#samplesDroppedTold = samplesDropped;
    if (this.#lossMetric !== false) void this.telemetry({ [this.#lossMetric]: samplesDropped });
  }
}

const LOSS_METRIC_DEFAULT = 'client.samples_dropped';
