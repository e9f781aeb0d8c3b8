import type { ErrorCode } from './error-codes.ts';

/** Of `expires_before_next_wake`: when the device is expected (epoch milliseconds), and the least `expires.inSeconds` that reaches it. */
export type Remedy = { readonly nextWakeAt: number; readonly expiresInSecondsMin: number };

/** An error that its sender is told about: a stable code, a message for people, and the place of the fault where there is one. */
export class DownlinkError extends Error {
  readonly code: ErrorCode;
  /** Where the fault is, as a path into the input: `values.temperature`, `[3].ts`, `query.limit`. */
  readonly at: string | undefined;
  /** Seconds after which a retry makes sense (HTTP `Retry-After`). */
  readonly retryAfterSeconds: number | undefined;
  /** What would have worked, for programs. */
  readonly remedy: Remedy | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    details: { at?: string; retryAfterSeconds?: number; remedy?: Remedy | undefined; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'DownlinkError';
    this.code = code;
    this.at = details.at;
    this.retryAfterSeconds = details.retryAfterSeconds;
    this.remedy = details.remedy;
  }
}
