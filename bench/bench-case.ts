/** One thing that is measured, on Downlink and mostly on peers as well. */
export type BenchCase = {
  readonly id: string;
  run(effort: Effort): Promise<readonly Result[]>;
};

export type Figure = {
  readonly id: string;
  readonly title: string;
  readonly unit: 'per s' | 'ms' | 's' | 'KB' | 'MB' | 'readings' | 'devices';
  /** What it is to be, against the first peer where it is a ratio. */
  readonly goal?: string;
  /** No peer has it. */
  readonly isOwn?: true;
};

/** A figure of Downlink's beside one peer's: one value a run. */
export type Result = {
  readonly figure: Figure;
  readonly downlinkRuns: readonly number[];
  readonly peer?: { readonly title: string; readonly runs: readonly number[] };
};

export type Effort = {
  readonly load: Load;
  /** How often to measure, where nobody said it: `usual` times. */
  readonly runs: (usual: number) => number;
  /** Progress, for whoever waits. */
  readonly say: (text: string) => void;
  /** What the table must not be read without. */
  readonly note: (text: string) => void;
};

/** How much load. */
export type Load = {
  readonly connections: number;
  /** QoS 1 readings without PUBACK, a connection. */
  readonly outstanding: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** Commands pulled and reported, a connection. */
  readonly pairs: number;
  readonly pushesPerSecond: number;
  /** Readings that flow while commands are pushed. */
  readonly besidePerSecond: number;
  /** With a real InfluxDB behind it. */
  readonly influxMs: number;
  readonly idleConnections: number;
  /** How long to wait at most until memory stays as it is. */
  readonly settleMsMax: number;
  /** Open commands, the number to compare with first, and the devices they are for. */
  readonly openCounts: readonly number[];
  readonly openDevices: number;
  readonly outageMs: number;
  readonly outagePerSecond: number;
};
