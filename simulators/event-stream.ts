import { backoffMs, delay } from './client/backoff.ts';
import { sseParser } from './sse-parser.ts';

/**
 * Follows `GET /v1/stream` until `signal` is aborted: reconnects when it breaks or falls silent, and resumes with `Last-Event-ID`.
 * `onEvent` gets the event's name and decoded data; `onBroken` is called for each interruption.
 */
export async function followStream(options: {
  readonly url: string;
  readonly token: string;
  readonly onEvent: (name: string, data: unknown) => void;
  readonly onOpen?: () => void;
  readonly onBroken?: (error: Error) => void;
  readonly signal: AbortSignal;
}): Promise<void> {
  let lastEventId: string | undefined;
  let failures = 0;
  while (!options.signal.aborted) {
    const parse = sseParser((event) => {
      lastEventId = event.id ?? lastEventId;
      options.onEvent(event.name, JSON.parse(event.data));
    });
    try {
      await readOnce(options, lastEventId, (text) => {
        failures = 0;
        parse(text);
      });
      throw new Error('the server ended the stream');
    } catch (error) {
      if (options.signal.aborted) return;
      options.onBroken?.(error as Error);
    }
    await delay(backoffMs(failures, RETRY), options.signal);
    failures += 1;
  }
}

/** The server sends a comment every 15 s. */
const SILENCE_MS_MAX = 45_000;
const RETRY = { minMs: 200, maxMs: 5_000 };

async function readOnce(
  options: { url: string; token: string; onOpen?: () => void; signal: AbortSignal },
  lastEventId: string | undefined,
  onText: (text: string) => void,
): Promise<void> {
  const silent = new AbortController();
  const response = await fetch(options.url, {
    headers: {
      authorization: `Bearer ${options.token}`,
      accept: 'text/event-stream',
      ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
    },
    signal: AbortSignal.any([options.signal, silent.signal]),
  });
  if (!response.ok || response.body === null) {
    await response.body?.cancel();
    throw new Error(`the stream answered ${response.status}`);
  }
  options.onOpen?.();
  const timer = setTimeout(() => silent.abort(), SILENCE_MS_MAX);
  const decoder = new TextDecoder();
  try {
    for await (const chunk of response.body) {
      timer.refresh();
      onText(decoder.decode(chunk as Uint8Array, { stream: true }));
    }
  } finally {
    clearTimeout(timer);
  }
}
