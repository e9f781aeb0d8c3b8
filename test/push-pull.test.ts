import { describe, expect, it } from 'vitest';
import { adviceFrom } from '../bench/push-pull/advice.ts';
import { chartOf } from '../bench/push-pull/chart.ts';
import { measuredOf, type Measured } from '../bench/push-pull/measured.ts';
import { parseOptions, UsageError, type Options } from '../bench/push-pull/options.ts';
import { RadioMeter } from '../bench/push-pull/radio-meter.ts';
import { adviceLines } from '../bench/push-pull/report.ts';
import { planOf, type Workload } from '../bench/push-pull/workload.ts';

/** The comparison of push and pull: its radio model, its plan, and what it makes of the figures. */
const RADIO = { rampMs: 300, tailMs: 2_000, listenShare: 0.1 };
const WORKLOAD: Workload = {
  devices: 5,
  seconds: 60,
  seed: 7,
  everySeconds: 5,
  commandSeconds: 10,
  keepaliveSeconds: 10,
  waitSeconds: 10,
};

describe('the radio', () => {
  it('takes its ramp before a burst and its tail after it', () => {
    const radio = new RadioMeter(RADIO, 0);
    radio.burst(10_000);
    expect(radio.onMs(60_000, false)).toBe(2_300);
  });

  it('stays on between bursts that are closer than its tail', () => {
    const radio = new RadioMeter(RADIO, 0);
    for (const atMs of [10_000, 11_000, 12_500]) radio.burst(atMs);
    expect(radio.onMs(60_000, false)).toBe(300 + 2_500 + 2_000);
  });

  it('counts nothing before the measurement began and nothing after its end', () => {
    const radio = new RadioMeter(RADIO, 1_000);
    radio.burst(500);
    radio.burst(9_500);
    expect(radio.onMs(10_000, false)).toBe(1_500 + 300 + 500);
  });

  it('listens for its share of the quiet time when it waits to be pushed to', () => {
    const radio = new RadioMeter(RADIO, 0);
    radio.burst(10_000);
    expect(radio.onMs(12_300, true)).toBeCloseTo(2_300 + 1_000);
  });
});

describe('the plan', () => {
  it('is the same for the same seed, and another for another', () => {
    expect(planOf(WORKLOAD)).toEqual(planOf(WORKLOAD));
    expect(planOf({ ...WORKLOAD, seed: 8 })).not.toEqual(planOf(WORKLOAD));
  });

  it('has its commands in the order of time, within the measured time', () => {
    const times = planOf(WORKLOAD).commands.map(({ atMs }) => atMs);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    expect(times.every((atMs) => atMs >= 0 && atMs < 60_000)).toBe(true);
    expect(times.length).toBeGreaterThan(0);
  });

  it('has two commands a device on average in a short run, and one every 15 s in a long one, unless told otherwise', () => {
    const every = (...args: string[]): unknown => (parseOptions(args, ['push'], 1) as Options).workload.commandSeconds;
    expect([every('--seconds', '5'), every('--seconds', '60'), every('--seconds', '5', '--command-every', '9')]).toEqual([
      2.5, 15, 9,
    ]);
  });
});

describe('the figures', () => {
  it('are a device and hour', () => {
    const tally = {
      latenciesMs: [1, 2, 3],
      bytes: 1_000,
      requests: 10,
      emptyAnswers: 5,
      radioOnMs: 20_000,
      serverCpuMs: 100,
      commands: 4,
    };
    expect(measuredOf({ id: 'push', title: 'Push' }, tally, { devices: 10, measuredMs: 36_000 })).toMatchObject({
      latencyP50Ms: 2,
      bytes: 10_000,
      radioOnSeconds: 200,
      serverCpuMs: 1_000,
      missing: 1,
    });
  });
});

describe('the advice', () => {
  const push = way({ way: 'push', title: 'MQTT push', latencyP99Ms: 5, radioOnSeconds: 900 });
  const oneTrip = way({ way: 'one-trip', title: 'One-trip wake', latencyP99Ms: 9_000, radioOnSeconds: 90 });

  it('names the fastest for who is in a hurry and the thriftiest for who must save', () => {
    const advice = adviceFrom([push, oneTrip]);
    expect(advice.find(({ need }) => need.includes('at once'))?.way).toBe('MQTT push');
    expect(advice.find(({ need }) => need.includes('battery must last'))?.way).toBe('One-trip wake');
  });

  it('never names a way that lost a command', () => {
    expect(adviceFrom([{ ...push, missing: 1 }])).toEqual([]);
  });

  it('says why there is none', () => {
    expect(adviceLines([])).toEqual([expect.stringMatching(/^No advice: no command was issued/)]);
  });
});

describe('the chart', () => {
  it('shows every way that delivered something, with its name made safe', () => {
    const svg = chartOf([way({ title: 'A < B' }), way({ title: 'None', latencyP50Ms: Number.NaN })], 'two devices & more');
    expect(svg).toContain('A &lt; B');
    expect(svg).toContain('two devices &amp; more');
    expect(svg).not.toMatch(/None|NaN|Infinity/);
  });
});

describe('the options', () => {
  it('name what is wrong with them', () => {
    expect(() => parseOptions(['--devices', '0'], ['push'], 1)).toThrow(
      new UsageError('--devices 0: it is a whole number from 1 to 5000'),
    );
    expect(() => parseOptions(['--ways', 'pigeon'], ['push'], 1)).toThrow('--ways knows push, not pigeon');
  });
});

function way(figures: Partial<Measured>): Measured {
  return {
    way: 'push',
    title: 'Push',
    latencyP50Ms: 3,
    latencyP99Ms: 9,
    bytes: 1_000,
    requests: 10,
    emptyAnswers: 0,
    radioOnSeconds: 100,
    serverCpuMs: 10,
    commands: 10,
    missing: 0,
    ...figures,
  };
}
