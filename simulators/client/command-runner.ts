import { setMaxListeners } from 'node:events';
import { MESSAGE_CHARS_MAX, RESULT_BYTES_MAX } from '../../devices/command.ts';
import type { JsonValue } from '../../devices/json.ts';
import type { Report } from '../../devices/report.ts';
import { RejectedCommand, type CommandHandler, type ReceivedCommand } from './device-client.ts';
import type { ExecutedCommands } from './executed-commands.ts';

/**
 * Carries commands out, each once, and says what came of them. Commands run side by side, begun in the order they came:
 * an urgent `stop` must not wait for the end of a long `prime`.
 */
export class CommandRunner {
  readonly #handlers = new Map<string, CommandHandler>();
  readonly #running = new Set<Promise<void>>();
  readonly #stopped = new AbortController();
  readonly #executed: ExecutedCommands;
  readonly #report: (commandId: string, report: Report) => void;

  /** `report` is called with every report to send, `running` ones included. */
  constructor(executed: ExecutedCommands, report: (commandId: string, report: Report) => void) {
    this.#executed = executed;
    this.#report = report;
    // Every command that is being carried out may listen.
    setMaxListeners(RUNNING_MAX, this.#stopped.signal);
  }

  handle(name: string, handler: CommandHandler): void {
    this.#handlers.set(name, handler);
  }

  /**
   * Begins a command, unless it is known. Resolves when it is on record: the moment to confirm it. `runningAfterMs`: a command
   * not done by then is reported as running, for transports where the report is also the confirmation.
   */
  async take(command: ReceivedCommand, options: { runningAfterMs?: number } = {}): Promise<void> {
    const state = this.#executed.state(command.id);
    if (state === 'running') this.#report(command.id, { state: 'running' });
    else if (state !== 'unknown') this.#report(command.id, state);
    else await this.#begin(command, options.runningAfterMs);
  }

  /** Reports again what a stop or a restart left unreported. */
  reportAgain(): void {
    for (const [id, report] of this.#executed.unreported()) this.#report(id, report);
  }

  /** Resolves when all commands begun so far have ended. */
  async idle(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Tells the handlers to stop. */
  stop(): void {
    this.#stopped.abort();
  }

  async #begin(command: ReceivedCommand, runningAfterMs: number | undefined): Promise<void> {
    const handler = this.#handlers.get(command.name);
    if (handler === undefined)
      return this.#end(command, { state: 'rejected', message: `this device knows no command ${command.name}` });
    if (this.#running.size >= RUNNING_MAX) return this.#end(command, { state: 'rejected', message: 'too many commands at once' });
    try {
      await this.#executed.begin(command.id);
    } catch (error) {
      const message = `not begun: the device cannot keep it on record (${messageOf(error)})`;
      return this.#end(command, { state: 'failed', message: clip(message) });
    }
    const run = this.#run(command, handler, runningAfterMs).finally(() => this.#running.delete(run));
    this.#running.add(run);
  }

  async #run(command: ReceivedCommand, handler: CommandHandler, runningAfterMs: number | undefined): Promise<void> {
    let done = false;
    const progress = (percent: number, message?: string) => {
      if (done) return;
      this.#report(command.id, {
        state: 'running',
        ...(!Number.isNaN(percent) && { progress: Math.min(100, Math.max(0, percent)) }),
        ...(message !== undefined && { message: clip(message) }),
      });
    };
    const timer =
      runningAfterMs === undefined ? undefined : setTimeout(() => this.#report(command.id, { state: 'running' }), runningAfterMs);
    try {
      const result = await handler(command, { progress, signal: this.#stopped.signal });
      done = true;
      clearTimeout(timer);
      await this.#end(command, succeeded(result));
    } catch (error) {
      done = true;
      clearTimeout(timer);
      // A device that was told to stop cannot say what became of it; its record can, when it starts again.
      if (this.#stopped.signal.aborted) return;
      await this.#end(command, {
        state: error instanceof RejectedCommand ? 'rejected' : 'failed',
        message: clip(messageOf(error)),
      });
    } finally {
      clearTimeout(timer);
    }
  }

  async #end(command: ReceivedCommand, report: Report): Promise<void> {
    // The end stands in memory even when the file cannot be written; the report must go out all the same.
    await this.#executed.finish(command.id, report).catch(() => {});
    this.#report(command.id, report);
  }
}

/** Above what the server lets a device have open. */
const RUNNING_MAX = 1_000;

function succeeded(result: unknown): Report {
  if (result === undefined) return { state: 'succeeded' };
  try {
    const text = JSON.stringify(result) as string | undefined;
    if (text === undefined) return { state: 'succeeded', message: 'the result is left out: it is no JSON' };
    if (Buffer.byteLength(text) <= RESULT_BYTES_MAX) return { state: 'succeeded', result: JSON.parse(text) as JsonValue };
    return { state: 'succeeded', message: `the result is left out: it takes more than ${RESULT_BYTES_MAX} bytes` };
  } catch {
    return { state: 'succeeded', message: 'the result is left out: it is no JSON' };
  }
}

/** Of anything that a handler may throw. */
function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    return 'the handler threw something that has no text';
  }
}

function clip(text: string): string {
  return text.slice(0, MESSAGE_CHARS_MAX);
}
