/** The one source of time. Domain functions take `now` instead; whatever waits takes a Clock. */
export type Clock = {
  /** Milliseconds since the Unix epoch. */
  now(): number;
};

export const SECOND_MS = 1_000;
export const MINUTE_MS = 60_000;
export const HOUR_MS = 3_600_000;
export const DAY_MS = 86_400_000;
