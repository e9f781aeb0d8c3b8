import { delay } from '../../simulators/client/backoff.ts';
import { jsonHttp, type HttpAnswer } from '../../simulators/client/json-http.ts';
import type { Random } from '../../simulators/models/random.ts';
import type { IssuedCommand, Records } from './records.ts';
import { ADMIN_KEY, type Victim } from './victim.ts';

/** An operator: issues commands with an idempotency key each, again until answered, now and then twice, and cancels some. */
const TIMEOUT_MS = 5_000;
const RETRY_MS = 30;
const SHARE = { again: 0.1, cancelled: 0.15, keyed: 0.2 };
/** Far beyond any run: no command of a run ends by a deadline. */
const REPORT_TIMEOUT_SECONDS = 86_400;
const ATTEMPTS_MAX = 100;

export class Operator {
  readonly #name: string;
  readonly #victim: Victim;
  readonly #records: Records;
  readonly #random: Random;
  readonly #deviceIds: readonly string[];
  #issuing: Promise<void> | undefined;
  #nth = 0;

  constructor(name: string, deviceIds: readonly string[], parts: { victim: Victim; records: Records; random: Random }) {
    this.#name = name;
    this.#deviceIds = deviceIds;
    this.#victim = parts.victim;
    this.#records = parts.records;
    this.#random = parts.random;
  }

  produce(everyMs: number, signal: AbortSignal): void {
    this.#issuing = (async () => {
      while (!signal.aborted) {
        await delay(everyMs * (0.5 + this.#random.next()), signal);
        if (!signal.aborted) await this.#issueOne();
      }
    })();
  }

  async produced(): Promise<void> {
    await this.#issuing;
  }

  /** Any request, again until there is an answer that is the client's to deal with. */
  async ask(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<HttpAnswer> {
    for (;;) {
      const http = jsonHttp({ url: this.#victim.url, token: ADMIN_KEY, timeoutMs: TIMEOUT_MS });
      const answer = await http(method, path, body, headers).catch(() => undefined);
      if (answer !== undefined && answer.status < 500) return answer;
      await delay(RETRY_MS * (0.5 + this.#random.next()));
    }
  }

  /** The command's id as answered for its key, now as ever. */
  async issue(command: IssuedCommand): Promise<string | undefined> {
    const { deviceId, body, idempotencyKey } = command;
    const answer = await this.ask('POST', `/v1/devices/${deviceId}/commands`, body, { 'idempotency-key': idempotencyKey });
    if (answer.status === 429) return undefined;
    const { id } = (answer.body ?? {}) as { id?: string };
    if (answer.status !== 201 || id === undefined) {
      throw new Error(`issuing ${idempotencyKey} was answered with ${answer.status} ${JSON.stringify(answer.body)}`);
    }
    command.ids.add(id);
    return id;
  }

  async #issueOne(): Promise<void> {
    this.#nth += 1;
    const idempotencyKey = `${this.#name}-${this.#nth}`;
    const random = this.#random;
    const deviceId = this.#deviceIds[random.integer(0, this.#deviceIds.length - 1)];
    if (deviceId === undefined) return;
    const command: IssuedCommand = {
      idempotencyKey,
      deviceId,
      body: {
        name: 'work',
        params: { order: idempotencyKey },
        priority: random.pick(['low', 'normal', 'normal', 'high', 'urgent']),
        maxAttempts: ATTEMPTS_MAX,
        reportTimeoutSeconds: REPORT_TIMEOUT_SECONDS,
        ...(random.chance(SHARE.keyed) && { key: `setting-${random.integer(1, 3)}` }),
      },
      ids: new Set(),
      cancel: 'none',
    };
    this.#records.commands.push(command);
    const id = await this.issue(command);
    if (id === undefined) return;
    this.#records.acknowledged();
    if (random.chance(SHARE.again)) await this.issue(command);
    if (random.chance(SHARE.cancelled)) await this.#cancel(command, id);
  }

  async #cancel(command: IssuedCommand, id: string): Promise<void> {
    command.cancel = 'asked';
    const { status } = await this.ask('DELETE', `/v1/commands/${id}${this.#random.chance(0.5) ? '?force=true' : ''}`);
    if (status !== 200 && status !== 409) throw new Error(`cancelling ${id} was answered with ${status}`);
    command.cancel = status === 200 ? 'done' : 'refused';
    this.#records.acknowledged();
  }
}
