import { FAULTS, type FaultCounts } from './faults.ts';
import { waysInUse, type Counts, type Meter } from './meter.ts';
import type { Reckoning } from './reckoning.ts';
import { duration, grouped, table } from '../table.ts';

/** What the run prints at its end. */
export function summaryLines(meter: Meter, faults: FaultCounts, issuingSeconds: number): string[] {
  const ways = waysInUse(meter);
  const sum = (value: (counts: Counts) => number) => ways.reduce((total, way) => total + value(meter.ways[way]), 0);
  const row = (label: string, cell: (counts: Counts) => string, all = '') => [
    label,
    ...ways.map((way) => cell(meter.ways[way])),
    all,
  ];
  const both = (label: string, value: (counts: Counts) => number) =>
    row(label, (counts) => grouped(value(counts)), grouped(sum(value)));
  const perSecond = (count: number) => (count / Math.max(1, issuingSeconds)).toFixed(1);
  const rate = (label: string, value: (counts: Counts) => number) =>
    row(label, (counts) => perSecond(value(counts)), perSecond(sum(value)));
  const rows = [
    ['', ...ways, 'all'],
    both('devices', (counts) => counts.devices),
    both('commands issued', (counts) => counts.issued),
    rate('commands/s', (counts) => counts.issued),
    both('commands delivered', (counts) => counts.delivered),
    row('delivery p50', (counts) => duration(counts.delivery.percentile(0.5))),
    row('delivery p99', (counts) => duration(counts.delivery.percentile(0.99))),
    both('samples stored', (counts) => counts.readings),
    rate('samples/s', (counts) => counts.readings),
    both('wakes', (counts) => counts.wakes),
    both('connections lost', (counts) => counts.reconnects),
    ...(meter.ways.hybrid.devices > 0 ? [both('changes between push and pull', (counts) => counts.switches)] : []),
  ];
  const injected = [...faults].map(([fault, count]) => [FAULTS[fault], grouped(count)]);
  const odd = [
    ['commands the server refused', meter.refused],
    ['commands held back (too many requests open)', meter.heldBack],
    ['interruptions of the live stream', meter.streamBreaks],
    ['samples given up', sum((counts) => counts.readingsNotStored)],
  ] as const;
  return [
    'Summary',
    ...indented(table(rows)),
    ...odd.filter(([, count]) => count > 0).map(([label, count]) => `  ${label}: ${grouped(count)}`),
    ...(injected.length > 0 ? ['', 'Faults injected', ...indented(table(injected))] : []),
  ];
}

export type ReadingsCheck = {
  readonly acknowledged: number;
  readonly sent: number;
  readonly found: number;
  /** Devices of which fewer are stored than were acknowledged, or more than were sent. */
  readonly mismatches: readonly string[];
};

const MISMATCHES_SHOWN = 20;

export function reckoningLines(reckoning: Reckoning, readings: ReadingsCheck, unanswered: number, seed: number): string[] {
  const { states, mismatches, executedTwice } = reckoning;
  const rows = [
    ['state', 'must be', 'is'],
    ...states.map(({ state, expected, found }) => [state, grouped(expected), grouped(found)]),
    ['all', grouped(reckoning.issued), grouped(states.reduce((sum, { found }) => sum + found, 0))],
  ];
  const faults = [
    ...mismatches.map(({ id, deviceId, name, what }) => `${id} ${deviceId} ${name}: ${what}`),
    ...executedTwice.map((id) => `${id}: executed twice`),
    ...readings.mismatches,
  ];
  const clean = reckoning.clean && readings.mismatches.length === 0 && unanswered === 0;
  return [
    'Reckoning',
    ...indented(table(rows)),
    `  of these marked late: ${grouped(reckoning.late)}`,
    `  executed twice: ${grouped(executedTwice.length)}`,
    `  samples acknowledged: ${grouped(readings.acknowledged)} of ${grouped(readings.sent)} sent; stored: ${grouped(readings.found)}`,
    ...(unanswered > 0 ? [`  commands without any answer from the server: ${grouped(unanswered)}`] : []),
    ...faults.slice(0, MISMATCHES_SHOWN).map((line) => `  ! ${line}`),
    ...(faults.length > MISMATCHES_SHOWN ? [`  ! and ${grouped(faults.length - MISMATCHES_SHOWN)} more`] : []),
    clean
      ? 'Clean: every command ended as its device says, none was executed twice, every acknowledged sample is stored.'
      : `Off: ${grouped(Math.max(1, faults.length))} mismatches. Run it again with --seed ${seed}.`,
  ];
}

function indented(lines: readonly string[]): string[] {
  return lines.map((line) => `  ${line}`);
}
