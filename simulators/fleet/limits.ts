/** Bounds and paces of the fleet, in one place. */

/** Devices registered and started at a time. */
export const STARTS_AT_ONCE = 16;
/** How long the end of all commands is waited for: longer than any lease, wake and report timeout of the fleet one after the other. */
export const SETTLE_MS_MAX = 180_000;
/** Commands read back at a time. */
export const READS_AT_ONCE = 8;
/** How long History may take to show what was acknowledged. */
export const HISTORY_MS_MAX = 30_000;
/** Commands a second for each device, unless --rate says otherwise. */
export const RATE_A_DEVICE = 0.1;

/** How fast the simulated world goes. Tests pass a brisk one. */
export type Pace = {
  /** A hand-over whose answer was lost is offered again after this. */
  readonly leaseSeconds: number;
  /** Periods of the wake schedules that are drawn. */
  readonly wakeSeconds: readonly [number, ...number[]];
  readonly pushBeatMs: number;
  /** How long a long poll may be kept. */
  readonly waitSeconds: number;
  /** Of the hybrids. */
  readonly keepaliveSeconds: number;
  /** For how long they cannot have MQTT when they cannot. */
  readonly awayMsMin: number;
  readonly awayMsMax: number;
  /** How long a report is waited for: most commands, and some hard ones. */
  readonly reportSeconds: number;
  readonly reportSecondsShort: number;
  /** By how much a late report is late. */
  readonly lateMsMin: number;
  readonly lateMsMax: number;
};

export const PACE: Pace = {
  leaseSeconds: 10,
  wakeSeconds: [5, 10, 15, 20],
  pushBeatMs: 2_000,
  waitSeconds: 30,
  keepaliveSeconds: 10,
  awayMsMin: 2_000,
  awayMsMax: 15_000,
  reportSeconds: 20,
  reportSecondsShort: 4,
  lateMsMin: 2_000,
  lateMsMax: 8_000,
};
