import { backoffMs, delay } from './client/backoff.ts';
import { problemOf, retryAfterMs } from './client/json-http.ts';
import { sseParser } from './sse-parser.ts';

export type StreamOptions = {
  readonly url: string;
  readonly token: string;
  /** Gets the event's name and decoded data. What it promises is waited for before the next event, and before this one's id is resumed from. */
  readonly onEvent: (name: string, data: unknown) => void | Promise<void>;
  readonly onOpen?: () => void;
  /** Called for each interruption; a StreamRefused when the server answered something else. */
  readonly onBroken?: (error: Error) => void;
  /** Where the stream is resumed from (`Last-Event-ID`); kept here unless given. */
  readonly place?: Place;
  readonly retry?: { readonly minMs: number; readonly maxMs: number };
  /** Another way to send, for tests and simulated faults. */
  readonly fetch?: typeof fetch;
  readonly signal: AbortSignal;
};

export type Place = { readonly get: () => string | undefined; readonly set: (eventId: string | undefined) => void };

/** The server answered, but with no stream. */
export class StreamRefused extends Error {
  readonly status: number;
  readonly code: string;
  readonly retryAfterMs: number | undefined;

  constructor(status: number, code: string, retryAfter: number | undefined) {
    super(`the stream answered ${status} ${code}`);
    this.name = 'StreamRefused';
    this.status = status;
    this.code = code;
    this.retryAfterMs = retryAfter;
  }
}

/** Follows a stream of server-sent events until `signal` is aborted: reconnects when it breaks or falls silent, and resumes with `Last-Event-ID`. */
export async function followStream(options: StreamOptions): Promise<void> {
  let lastEventId: string | undefined;
  const place = options.place ?? { get: () => lastEventId, set: (id) => (lastEventId = id) };
  let failures = 0;
  while (!options.signal.aborted) {
    let retryMs: number | undefined;
    try {
      await readOnce(options, place, () => (failures = 0));
      throw new Error('the server ended the stream');
    } catch (error) {
      if (options.signal.aborted) return;
      options.onBroken?.(error as Error);
      if (error instanceof StreamRefused) {
        // From the beginning, as the server says.
        if (error.status === 400) place.set(undefined);
        retryMs = error.retryAfterMs;
      }
    }
    await delay(retryMs ?? backoffMs(failures, options.retry ?? RETRY), options.signal);
    failures += 1;
  }
}

/** The server sends a comment every 15 s. */
const SILENCE_MS_MAX = 45_000;
const RETRY = { minMs: 200, maxMs: 5_000 };

/** Reads until the stream ends; rejects when it breaks. `onText` is called for whatever comes, comments included. */
async function readOnce(options: StreamOptions, place: Place, onText: () => void): Promise<void> {
  const ended = new AbortController();
  const stop = () => ended.abort();
  options.signal.addEventListener('abort', stop, { once: true });
  const timer = setTimeout(() => ended.abort(new Error('the stream fell silent')), SILENCE_MS_MAX);
  try {
    const response = await open(options, place.get(), ended.signal);
    options.onOpen?.();
    const steps: (() => void | Promise<void>)[] = [];
    const parse = sseParser(
      ({ name, data, id }) => {
        steps.push(() => options.onEvent(name, JSON.parse(data)));
        if (id !== undefined) steps.push(() => place.set(id));
      },
      (id) => steps.push(() => place.set(id)),
    );
    const decoder = new TextDecoder();
    for await (const chunk of response) {
      timer.refresh();
      onText();
      parse(decoder.decode(chunk, { stream: true }));
      for (const step of steps.splice(0)) await step();
    }
  } finally {
    clearTimeout(timer);
    options.signal.removeEventListener('abort', stop);
  }
}

async function open(
  { url, token, fetch: send = fetch }: StreamOptions,
  lastEventId: string | undefined,
  signal: AbortSignal,
): Promise<ReadableStream<Uint8Array>> {
  const response = await send(url, {
    headers: {
      ...(token !== '' && { authorization: `Bearer ${token}` }),
      accept: 'text/event-stream',
      ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
    },
    signal,
  });
  if (response.ok && response.body !== null) return response.body;
  const { status, headers } = response;
  const retryAfter = retryAfterMs(headers.get('retry-after'));
  const body: unknown = await response.json().catch(() => undefined);
  throw new StreamRefused(status, problemOf({ status, body, retryAfterMs: retryAfter }).code, retryAfter);
}
