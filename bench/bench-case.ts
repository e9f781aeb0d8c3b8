import type { Target } from './target.ts';

/** One thing that is measured, on Downlink and on a peer alike. */
export type BenchCase = {
  readonly id: string;
  /** A script in peers/, and what it is. */
  readonly peer: { readonly script: string; readonly title: string };
  readonly figures: readonly Figure[];
  /** How many devices the target is to know. */
  devices(load: Load): number;
  /** What only Downlink needs before it can be measured: a peer has its answers at hand. */
  readonly prepare?: (target: Target, load: Load) => Promise<void>;
  /** One value a figure, by its id. */
  measure(target: Target, load: Load): Promise<Record<string, number>>;
  /** Throws when Downlink did not keep what it had acknowledged. Called after `measure`, on Downlink only. */
  readonly verify?: (target: Target, measured: Record<string, number>) => Promise<void>;
};

export type Figure = {
  readonly id: string;
  readonly title: string;
  readonly unit: 'per s' | 'ms';
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
  /** Commands pushed, one after the other. */
  readonly pushes: number;
  /** From the start of one push to that of the next, if it has arrived by then. */
  readonly pushEveryMs: number;
};
