import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { InfluxDB, type IClusterConfig } from 'influx';
import { Pool, RequestError } from 'influx/lib/src/pool.js';
import { DownlinkError } from '../../../devices/downlink-error.ts';

/**
 * One InfluxDB database through the `influx` package, made sound: every call has a deadline, a failed call does not close the way for the
 * next, and the database is made before it is first used, whenever InfluxDB is there.
 */
export type InfluxOptions = {
  readonly url: string;
  readonly database: string;
  readonly username?: string;
  readonly password?: string;
  /** For each request. */
  readonly deadlineMs?: number;
};

const DEADLINE_MS_DEFAULT = 10_000;
const SOCKETS_MAX = 8;
const STATUS_WRITTEN = 204;
const RETENTION_POLICY = 'forever';

export type Value = string | number | boolean | null;
export type Placeholders = Readonly<Record<string, string>>;
/** The rows of one statement, each by column name; tags are columns only where the statement selects them. */
export type Rows = readonly Readonly<Record<string, Value>>[];

/** What InfluxDB has against the body of a write. */
export type WriteRefusal = { readonly status: number; readonly reason: string };

type PostOptions = Parameters<Pool['stream']>[0];

type Answer = {
  readonly results: readonly {
    readonly error?: string;
    readonly series?: readonly {
      readonly columns: readonly string[];
      readonly values: readonly (readonly Value[])[];
      readonly partial?: true;
    }[];
  }[];
};

export class InfluxClient {
  readonly #database: string;
  readonly #place: string;
  readonly #deadlineMs: number;
  readonly #influx: InfluxDB;
  readonly #pool: Pool;
  readonly #agent: HttpAgent;
  readonly #auth: string | undefined;
  readonly #underWay = new Set<AbortController>();
  #made: Promise<void> | undefined;
  #closed = false;

  /** Throws TypeError when `url` is none. */
  constructor(options: InfluxOptions) {
    const url = new URL(options.url);
    const username = options.username ?? decodeURIComponent(url.username);
    const password = options.password ?? decodeURIComponent(url.password);
    this.#database = options.database;
    this.#place = `InfluxDB at ${url.host}`;
    this.#deadlineMs = options.deadlineMs ?? DEADLINE_MS_DEFAULT;
    this.#auth = username === '' ? undefined : `${username}:${password}`;
    const isTls = url.protocol === 'https:';
    this.#agent = isTls
      ? new HttpsAgent({ keepAlive: true, maxSockets: SOCKETS_MAX })
      : new HttpAgent({ keepAlive: true, maxSockets: SOCKETS_MAX });
    // The client would shut its only host out for up to 10 s after a 503 or a lost connection. One retry of its own, since a
    // kept-alive connection may just have been closed; its own timeout comes after our deadline.
    const noDelay = { getDelay: () => 0, next: () => noDelay, reset: () => noDelay };
    const pool = { backoff: noDelay, maxRetries: 1, requestTimeout: this.#deadlineMs * 2 };
    const port = Number(url.port) || (isTls ? 443 : 80);
    const path = url.pathname === '/' ? '' : url.pathname;
    const host = { host: url.hostname, port, path, protocol: isTls ? 'https' : 'http', options: { agent: this.#agent } } as const;
    const config: IClusterConfig = { hosts: [host], database: this.#database, username, password, pool };
    this.#influx = new InfluxDB(config);
    this.#pool = new Pool(pool);
    this.#pool.addHost(`${host.protocol}://${host.host}:${port}${path}`, host.options);
  }

  /** One answer a statement. Values are bound by `placeholders`; times come as RFC 3339. Throws `history_unavailable`. */
  async query(statements: readonly string[], placeholders: Placeholders = {}): Promise<Rows[]> {
    const options = { database: this.#database, placeholders, method: 'POST' } as const;
    return this.#inDatabase(async (signal) => {
      const answer = (await this.#influx.queryRaw(statements.join(';'), { ...options, signal })) as Answer;
      return answer.results.map((result) => {
        if (result.error !== undefined) throw new Error(result.error);
        return (result.series ?? []).flatMap(({ columns, values, partial }) => {
          if (partial) throw new Error('max-row-limit in its configuration is too low');
          return values.map((value) => Object.fromEntries(columns.map((column, i) => [column, value[i] ?? null])));
        });
      });
    });
  }

  /**
   * Posts line protocol (nanosecond times) as it is. Answers what InfluxDB has against it, if anything. Throws `history_unavailable` when
   * nothing can be said of it.
   */
  async write(body: Buffer, headers: Record<string, string>): Promise<WriteRefusal | undefined> {
    return this.#inDatabase(async (signal) => {
      try {
        // InfluxDB#writePoints makes line protocol itself and harms it, so what it is built on is used. The body is typed as text there
        // and handed on as it is.
        await this.#post({
          method: 'POST',
          path: '/write',
          query: { db: this.#database, precision: 'ns' },
          headers,
          body: body as unknown as string,
          signal,
          ...(this.#auth !== undefined && { auth: this.#auth }),
        });
        return undefined;
      } catch (error) {
        const refusal = refusalOf(error);
        if (refusal === undefined) throw error;
        return refusal;
      }
    });
  }

  /** Makes the database and a retention policy that keeps for ever, where they are missing; what is there stays as it is. */
  ready(): Promise<void> {
    this.#made ??= this.#bounded((signal) => this.#make(signal)).catch((error: unknown) => {
      this.#made = undefined;
      throw error;
    });
    return this.#made;
  }

  close(): void {
    this.#closed = true;
    for (const controller of this.#underWay) controller.abort(new Error('the server is stopping'));
    this.#agent.destroy();
  }

  async #make(signal: AbortSignal): Promise<void> {
    const database = this.#database;
    const names = await this.#influx.getDatabaseNames();
    signal.throwIfAborted();
    if (!names.includes(database)) await this.#influx.createDatabase(database);
    const policies = await this.#influx.showRetentionPolicies(database);
    signal.throwIfAborted();
    if (policies.some((policy) => policy.default)) return;
    await this.#influx.createRetentionPolicy(RETENTION_POLICY, { database, duration: 'INF', replication: 1, isDefault: true });
  }

  /** Any other success than 204 is somebody else's (a proxy, a captive portal), and says nothing of the rows. */
  #post(options: PostOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pool.stream(options, (error, response) => {
        if (error) return reject(error);
        if (response.statusCode !== STATUS_WRITTEN) {
          response.destroy();
          return reject(new Error(`a write was answered ${response.statusCode}, which is not InfluxDB's answer`));
        }
        response.resume();
        resolve();
      });
    });
  }

  /** Once more when somebody dropped the database since it was made. */
  async #inDatabase<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    await this.ready();
    try {
      return await this.#bounded(work);
    } catch (error) {
      if (!(error instanceof DownlinkError) || !error.message.includes('database not found')) throw error;
      this.#made = undefined;
      await this.ready();
      return this.#bounded(work);
    }
  }

  /** The client's promises may never settle (an answer cut after its headers), so each is raced with a deadline. */
  async #bounded<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#closed) throw this.#unavailable(new Error('the server is stopping'));
    const controller = new AbortController();
    const { signal } = controller;
    this.#underWay.add(controller);
    const deadline = setTimeout(() => controller.abort(new Error(`no answer within ${this.#deadlineMs} ms`)), this.#deadlineMs);
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    });
    try {
      return await Promise.race([work(signal), aborted]);
    } catch (error) {
      throw this.#unavailable(error);
    } finally {
      clearTimeout(deadline);
      this.#underWay.delete(controller);
    }
  }

  #unavailable(error: unknown): DownlinkError {
    const { message, code } = error as NodeJS.ErrnoException;
    const words = wordsOf(message) || code || 'no answer';
    return new DownlinkError('history_unavailable', `${this.#place}: ${words}`, { retryAfterSeconds: 5, cause: error });
  }
}

/**
 * Refusals that concern the rows themselves. Any other (a proxy's 400, a wrong password, a full disk) says nothing of them, and
 * taking it for one would put everything into quarantine.
 */
const OF_ROWS = /partial write|unable to parse|field type conflict/;
const STATUS_TOO_LARGE = 413;

function refusalOf(error: unknown): WriteRefusal | undefined {
  if (!(error instanceof RequestError)) return undefined;
  const status = error.res.statusCode ?? 0;
  const reason = wordsOf(error.message);
  return status === STATUS_TOO_LARGE || OF_ROWS.test(reason) ? { status, reason } : undefined;
}

/** InfluxDB's own words within the client's message: `A 400 Bad Request error occurred: {"error":"…"}`. */
function wordsOf(message: string): string {
  const json = /^A \d+ .* error occurred: (\{.*\})\s*$/s.exec(message)?.[1];
  if (json === undefined) return message.trim();
  try {
    const { error, message: words } = JSON.parse(json) as { error?: string; message?: string };
    return error ?? words ?? message.trim();
  } catch {
    return message.trim();
  }
}
