/** Bounds and paces of the fleet, in one place. */

/** A hand-over whose answer was lost is offered again this soon. */
export const LEASE_SECONDS = 10;
export const PUSH_BEAT_MS = 2_000;
/** Devices registered, started or stopped at a time. */
export const STARTS_AT_ONCE = 16;
/** How long the end of all commands is waited for: longer than any lease, wake and report timeout of the fleet one after the other. */
export const SETTLE_MS_MAX = 180_000;
/** Commands read back at a time. */
export const READS_AT_ONCE = 8;
/** How long History may take to show what was acknowledged. */
export const HISTORY_MS_MAX = 30_000;
/** Commands a second for each device, unless --rate says otherwise. */
export const RATE_A_DEVICE = 0.1;
