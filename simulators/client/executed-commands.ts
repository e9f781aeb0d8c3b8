import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { parseReport, type Report } from '../../devices/report.ts';

/**
 * Remembers which commands were carried out and how each ended, so that one that comes twice is executed once and its
 * known outcome is reported again; with a file, across restarts of the device as well.
 *
 * A command is on record before it is carried out. One that a restart interrupted is therefore never started again: it is
 * reported as failed, since nobody can say whether it took effect.
 */
export class ExecutedCommands {
  readonly #entries = new Map<string, Entry>();
  readonly #path: string | undefined;
  readonly #entriesMax: number;
  #cursor: string | undefined;
  #saving: Promise<void> | undefined;
  #nextSave: Promise<void> | undefined;

  /** Kept in memory alone unless made by `open`. */
  constructor(options: { entriesMax?: number; path?: string } = {}) {
    this.#entriesMax = options.entriesMax ?? ENTRIES_MAX_DEFAULT;
    this.#path = options.path;
  }

  /** Reads the file at `path`, if there is one, and keeps it from now on. Throws when it holds something else. */
  static async open(path: string, options: { entriesMax?: number } = {}): Promise<ExecutedCommands> {
    const executed = new ExecutedCommands({ ...options, path });
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (text === undefined) return executed;
    const { commands, cursor } = recordIn(text, path);
    for (const { id, report, reported } of commands) executed.#entries.set(id, { report: report ?? INTERRUPTED, reported });
    executed.#cursor = cursor;
    return executed;
  }

  /** What is known of a command: never seen, being carried out, or how it ended. */
  state(id: string): 'unknown' | 'running' | Report {
    const entry = this.#entries.get(id);
    return entry === undefined ? 'unknown' : (entry.report ?? 'running');
  }

  /** Puts a command on record as begun. Resolves when that would survive a restart; rejects, and forgets it, when it would not. */
  async begin(id: string): Promise<void> {
    this.#entries.set(id, { reported: false });
    this.#evict();
    try {
      await this.#save();
    } catch (error) {
      this.#entries.delete(id);
      throw error;
    }
  }

  /** Puts its end on record. Resolves when that would survive a restart. */
  async finish(id: string, report: Report): Promise<void> {
    this.#entries.set(id, { report, reported: false });
    this.#evict();
    await this.#save();
  }

  /** The server has the report, or will never take it. Kept with the next save: reporting once more after a restart is harmless. */
  reported(id: string): void {
    const entry = this.#entries.get(id);
    if (entry !== undefined) entry.reported = true;
  }

  /** Ends that the server may not know of yet, oldest first. */
  unreported(): [id: string, report: Report][] {
    const open: [string, Report][] = [];
    for (const [id, { report, reported }] of this.#entries) if (report !== undefined && !reported) open.push([id, report]);
    return open;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** The server's cursor behind the last commands that are on record here; what is `since` in the next request. */
  get cursor(): string | undefined {
    return this.#cursor;
  }

  /**
   * Set when all the commands it covers are on record. Kept with the next save: an older one after a restart confirms less,
   * and what comes again for it is known by its id.
   */
  set cursor(cursor: string | undefined) {
    this.#cursor = cursor;
  }

  /** Writes what `reported` and `cursor` left to be written. */
  async flush(): Promise<void> {
    await this.#save();
  }

  /** The oldest that is done with goes first. */
  #evict(): void {
    if (this.#entries.size <= this.#entriesMax) return;
    for (const [id, { reported }] of this.#entries) {
      if (!reported) continue;
      this.#entries.delete(id);
      return;
    }
    const oldest = this.#entries.keys().next();
    if (!oldest.done) this.#entries.delete(oldest.value);
  }

  /** One write at a time; those who ask while one is under way share the next. */
  #save(): Promise<void> {
    const path = this.#path;
    if (path === undefined) return Promise.resolve();
    if (this.#saving === undefined) {
      this.#saving = write(path, this.#text()).finally(() => (this.#saving = undefined));
      return this.#saving;
    }
    this.#nextSave ??= this.#saving
      .catch(() => {})
      .then(() => {
        this.#nextSave = undefined;
        return this.#save();
      });
    return this.#nextSave;
  }

  #text(): string {
    const commands = [...this.#entries].map(([id, entry]) => ({ id, ...entry }));
    return JSON.stringify({ commands, ...(this.#cursor !== undefined && { cursor: this.#cursor }) });
  }
}

type Entry = { readonly report?: Report; reported: boolean };

/** As many as a device may have open at the server: none of those that may come again is forgotten. */
const ENTRIES_MAX_DEFAULT = 1_000;

const INTERRUPTED: Report = {
  state: 'failed',
  message: 'interrupted by a restart of the device; it is not known whether it took effect',
};

type Record = {
  readonly commands: readonly { id: string; report: Report | undefined; reported: boolean }[];
  readonly cursor: string | undefined;
};

function recordIn(text: string, path: string): Record {
  try {
    const { commands, cursor } = JSON.parse(text) as {
      commands: { id: unknown; report?: unknown; reported?: unknown }[];
      cursor?: unknown;
    };
    return {
      commands: commands.map(({ id, report, reported }) => {
        if (typeof id !== 'string') throw new Error('an id is missing');
        return { id, report: report === undefined ? undefined : parseReport(report), reported: reported === true };
      }),
      cursor: typeof cursor === 'string' ? cursor : undefined,
    };
  } catch (error) {
    throw new Error(`${path} is no record of executed commands: ${(error as Error).message}`, { cause: error });
  }
}

/** Replaces the file whole: after a crash there is the old one or the new one. */
async function write(path: string, text: string): Promise<void> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  const file = await open(`${path}.new`, 'w', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
  const directory = await open(folder, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
