import type { ErrorCode } from './error-codes.ts';

/** An error that its sender is told about: a stable code, a message for people, and the place of the fault where there is one. */
export class DownlinkError extends Error {
  readonly code: ErrorCode;
  /** Where the fault is, as a path into the input: `values.temperature`, `[3].ts`, `query.limit`. */
  readonly at: string | undefined;
  /** Seconds after which a retry makes sense (HTTP `Retry-After`). */
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, message: string, details: { at?: string; retryAfterSeconds?: number; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'DownlinkError';
    this.code = code;
    this.at = details.at;
    this.retryAfterSeconds = details.retryAfterSeconds;
  }
}
