import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from '../devices/command.ts';
import type { DeviceLimits, WakeSchedule } from '../devices/device.ts';
import type { PresenceState } from '../devices/presence.ts';
import { backoffMs, delay } from './client/backoff.ts';
import { isWorthRetrying, jsonHttp, problemOf, type HttpAnswer, type JsonHttp } from './client/json-http.ts';
import type { ServerOptions } from './options.ts';
import { UserError } from './user-error.ts';

/** The dashboard API as a program of an operator sees it. */
export type DeviceView = {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly limits?: DeviceLimits;
  readonly presence: { readonly state: PresenceState };
};

export type NewDevice = {
  readonly id: string;
  readonly name?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly wake?: WakeSchedule;
  readonly limits?: DeviceLimits;
};

/** As shown by the API; times are RFC 3339 there. */
export type CommandView = Pick<Command, 'id' | 'deviceId' | 'name' | 'state' | 'result' | 'late'>;

/** The server said no. `code` is stable. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(answer: HttpAnswer) {
    const { code, message } = problemOf(answer);
    super(message);
    this.name = 'ApiError';
    this.status = answer.status;
    this.code = code;
  }
}

const TRIES_MAX = 8;
const RETRY = { minMs: 200, maxMs: 5_000 };

export class OperatorApi {
  readonly url: string;
  readonly adminKey: string;
  readonly #http: JsonHttp;

  constructor(options: { url: string; adminKey: string; fetch?: typeof fetch }) {
    this.url = options.url;
    this.adminKey = options.adminKey;
    this.#http = jsonHttp({ url: options.url, token: options.adminKey, ...(options.fetch && { fetch: options.fetch }) });
  }

  /**
   * Any request; the decoded body of a 2xx. One that may be repeated is, for a while, when there is no answer or the server is in
   * trouble. Throws ApiError when it says no, and the network's error when there is no answer.
   */
  async request<T>(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      const last = attempt >= TRIES_MAX;
      let waitMs = backoffMs(attempt, RETRY);
      try {
        const answer = await this.#http(method, path, body, headers);
        if (answer.status < 300) return answer.body as T;
        if (last || !isWorthRetrying(answer.status) || answer.status === 429) throw new ApiError(answer);
        waitMs = Math.max(waitMs, answer.retryAfterMs ?? 0);
      } catch (error) {
        if (last || error instanceof ApiError) throw error;
      }
      await delay(waitMs);
    }
  }

  async createDevice(device: NewDevice): Promise<{ token: string } | 'exists'> {
    try {
      return await this.request('POST', '/v1/devices', device);
    } catch (error) {
      if (error instanceof ApiError && error.code === 'device_exists') return 'exists';
      throw error;
    }
  }

  async device(id: string): Promise<DeviceView | undefined> {
    try {
      return await this.request('GET', `/v1/devices/${id}`);
    } catch (error) {
      if (error instanceof ApiError && error.code === 'unknown_device') return undefined;
      throw error;
    }
  }

  async changeDevice(id: string, change: { wake?: WakeSchedule; limits?: DeviceLimits }): Promise<void> {
    await this.request('PATCH', `/v1/devices/${id}`, change);
  }

  async rotateToken(id: string): Promise<string> {
    const { token } = await this.request<{ token: string }>('POST', `/v1/devices/${id}/token`);
    return token;
  }

  /** The same `idempotencyKey` and body give the same command, so a lost answer is no trouble. */
  issue(deviceId: string, command: object, idempotencyKey: string): Promise<CommandView> {
    return this.request('POST', `/v1/devices/${deviceId}/commands`, command, { 'idempotency-key': idempotencyKey });
  }

  /** False when it could no longer be cancelled. */
  async cancel(commandId: string): Promise<boolean> {
    try {
      await this.request('DELETE', `/v1/commands/${commandId}`);
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.status === 409) return false;
      throw error;
    }
  }

  command(commandId: string): Promise<CommandView> {
    return this.request('GET', `/v1/commands/${commandId}`);
  }

  /** How many readings of `metric` have their time in [from, to), epoch ms. */
  async countReadings(deviceId: string, metric: string, from: number, to: number): Promise<number> {
    const { points } = await this.request<{ points: { count?: number }[] }>(
      'GET',
      `/v1/devices/${deviceId}/telemetry?metric=${metric}&from=${from}&to=${to}&fn=count`,
    );
    return points[0]?.count ?? 0;
  }
}

/** Makes sure that a server answers at the address and takes the key. Throws UserError with the way out. */
export async function openOperatorApi(server: ServerOptions): Promise<OperatorApi> {
  const adminKey = server.adminKey ?? (await adminKeyIn(server.dataDir));
  let answer: HttpAnswer;
  try {
    answer = await jsonHttp({ url: server.url, token: adminKey, timeoutMs: 10_000 })('GET', '/v1/devices?limit=1');
  } catch (error) {
    throw new UserError(unreachable(server.url, error), { cause: error });
  }
  if (answer.status === 401) {
    throw new UserError(
      `The server at ${server.url} does not know this admin key. Give its data folder with --data-dir, or the key with --admin-key.`,
    );
  }
  if (answer.status !== 200 || !Array.isArray((answer.body as { devices?: unknown } | undefined)?.devices)) {
    throw new UserError(`What answers at ${server.url} is not Downlink, or cannot do its job: ${problemOf(answer).message}.`);
  }
  return new OperatorApi({ url: server.url, adminKey });
}

async function adminKeyIn(dataDir: string): Promise<string> {
  const path = join(dataDir, 'admin.key');
  try {
    const key = (await readFile(path, 'utf8')).trim();
    if (key !== '') return key;
  } catch (error) {
    throw new UserError(
      `No admin key: ${path} cannot be read (${(error as NodeJS.ErrnoException).code}). The server writes it at its first start; give its data folder with --data-dir, or the key with --admin-key.`,
      { cause: error },
    );
  }
  throw new UserError(`No admin key: ${path} is empty. Give the key with --admin-key.`);
}

/** In words of people: a certificate that is not trusted is another matter than nobody there. */
function unreachable(url: string, error: unknown): string {
  const { message, cause } = error as Error & { cause?: Error & { code?: string } };
  if (/CERT|ISSUER|SIGNATURE/.test(cause?.code ?? '')) {
    return `The certificate of ${url} is not accepted: ${cause?.message ?? message}. For one of your own authority set NODE_EXTRA_CA_CERTS to the authority's file.`;
  }
  return `No server answers at ${url}. Start it in another terminal with npm start, or say where it is with --url.`;
}
