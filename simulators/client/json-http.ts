/** JSON over HTTP with a bearer token: what the pull client, the operator of the simulation and the replay all speak. */
export type HttpAnswer = {
  readonly status: number;
  /** Decoded JSON; undefined when there is none. */
  readonly body: unknown;
  /** From `Retry-After`, seconds or a date. */
  readonly retryAfterMs: number | undefined;
  readonly etag?: string;
};

export type JsonHttp = (
  method: string,
  path: string,
  body?: unknown,
  headers?: Record<string, string>,
  options?: { readonly timeoutMs?: number; readonly signal?: AbortSignal },
) => Promise<HttpAnswer>;

export type HttpOptions = {
  /** `http://host:port`. */
  readonly url: string;
  /** Empty: `fetch` shows a client certificate, and that is enough. */
  readonly token: string;
  /** Another way to send, for tests and simulated faults. */
  readonly fetch?: typeof fetch;
  readonly timeoutMs?: number;
};

const TIMEOUT_MS_DEFAULT = 30_000;

/** Rejects when there is no answer; any answer, whatever its status, resolves. */
export function jsonHttp(options: HttpOptions): JsonHttp {
  const base = options.url.replace(/\/+$/, '');
  const send = options.fetch ?? fetch;
  return async (method, path, body, headers = {}, { timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT, signal } = {}) => {
    // By hand, since signals made of a lasting one by AbortSignal.any are kept as long as it.
    const ended = new AbortController();
    const stop = () => ended.abort(signal?.reason);
    const timer = setTimeout(() => ended.abort(new Error(`no answer within ${timeoutMs / 1_000} s`)), timeoutMs);
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted) stop();
    try {
      return await answerOf(
        send(base + path, {
          method,
          headers: {
            ...(options.token !== '' && { authorization: `Bearer ${options.token}` }),
            ...(body !== undefined && { 'content-type': 'application/json' }),
            ...headers,
          },
          ...(body !== undefined && { body: JSON.stringify(body) }),
          signal: ended.signal,
        }),
      );
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
  };
}

async function answerOf(sent: Promise<Response>): Promise<HttpAnswer> {
  const response = await sent;
  const text = await response.text();
  const etag = response.headers.get('etag');
  return {
    status: response.status,
    body: text === '' ? undefined : parsed(text),
    retryAfterMs: retryAfterMs(response.headers.get('retry-after')),
    ...(etag !== null && { etag }),
  };
}

/** True when the same request may be taken later: too early, too many, or the server's own trouble. */
export function isWorthRetrying(status: number): boolean {
  return status === 408 || status === 429 || status >= 500;
}

/** `code` and text of a problem document (RFC 9457), or the status when the answer is none. */
export function problemOf(answer: HttpAnswer): { code: string; message: string } {
  const { code, detail, title } = (answer.body ?? {}) as { code?: unknown; detail?: unknown; title?: unknown };
  const message = [detail, title].find((text) => typeof text === 'string') ?? `status ${answer.status}`;
  return { code: typeof code === 'string' ? code : `http_${answer.status}`, message };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Milliseconds in a `Retry-After`, seconds or a date. */
export function retryAfterMs(header: string | null): number | undefined {
  if (header === null || header.trim() === '') return undefined;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1_000);
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now());
}
