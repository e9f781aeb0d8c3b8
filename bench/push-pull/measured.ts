import { percentile } from '../statistics.ts';

/** What one way cost and brought. All but the latencies is a device and hour. */
export type Measured = {
  readonly way: string;
  readonly title: string;
  /** From the answer to the operator until the device had it, milliseconds. */
  readonly latencyP50Ms: number;
  readonly latencyP99Ms: number;
  readonly bytes: number;
  /** HTTP requests, or MQTT packets that the device sent. */
  readonly requests: number;
  /** Answers that brought nothing: 204, 304, PINGRESP. */
  readonly emptyAnswers: number;
  readonly radioOnSeconds: number;
  readonly serverCpuMs: number;
  readonly commands: number;
  /** Commands that had not arrived when the trial ended. */
  readonly missing: number;
};

/** Sums over all devices and the measured time. */
export type Tally = {
  readonly latenciesMs: readonly number[];
  readonly bytes: number;
  readonly requests: number;
  readonly emptyAnswers: number;
  readonly radioOnMs: number;
  readonly serverCpuMs: number;
  readonly commands: number;
};

export function measuredOf(
  way: { readonly id: string; readonly title: string },
  tally: Tally,
  of: { readonly devices: number; readonly measuredMs: number },
): Measured {
  const perDeviceHour = (sum: number): number => (sum * 3_600_000) / (of.measuredMs * of.devices);
  return {
    way: way.id,
    title: way.title,
    latencyP50Ms: percentile(tally.latenciesMs, 0.5),
    latencyP99Ms: percentile(tally.latenciesMs, 0.99),
    bytes: perDeviceHour(tally.bytes),
    requests: perDeviceHour(tally.requests),
    emptyAnswers: perDeviceHour(tally.emptyAnswers),
    radioOnSeconds: perDeviceHour(tally.radioOnMs) / 1_000,
    serverCpuMs: perDeviceHour(tally.serverCpuMs),
    commands: tally.commands,
    missing: tally.commands - tally.latenciesMs.length,
  };
}
