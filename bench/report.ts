import type { Figure, Result } from './bench-case.ts';
import type { Machine } from './machine.ts';
import { median } from './statistics.ts';

/** The results as one table, or as JSON. */
const HEADER = ['', 'unit', 'Downlink', '(low..high)', 'peer', '(low..high)', 'ratio', 'goal', 'runs', 'the peer'];
const LEFT_ALIGNED = new Set([0, 1, 9]);

const DECIMALS: Record<Figure['unit'], number> = { 'per s': 0, ms: 2, s: 2, KB: 1, MB: 1, readings: 0, devices: 0 };

export function asJson(results: readonly Result[], machine: Machine, notes: readonly string[]): string {
  const shown = results.map(({ figure, downlinkRuns, peer }) => ({
    ...figure,
    downlink: summary(downlinkRuns),
    ...(peer !== undefined && { peer: { title: peer.title, ...summary(peer.runs) } }),
  }));
  return JSON.stringify({ machine, notes, results: shown }, null, 2);
}

export function asTable(results: readonly Result[], machine: Machine, notes: readonly string[]): string {
  const rows = results.map((result, i) => row(result, results[i - 1]?.figure.id === result.figure.id));
  const widths = HEADER.map((title, i) => Math.max(title.length, ...rows.map((cells) => cells[i]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (LEFT_ALIGNED.has(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ')
      .trimEnd();
  const below = notes.length === 0 ? [] : ['', ...notes];
  return [...heading(machine), '', line(HEADER), ...rows.map(line), ...below].join('\n');
}

/** `isSame`: the line above is of the same figure, with another peer, and says what is wanted. */
function row({ figure, downlinkRuns, peer }: Result, isSame: boolean): string[] {
  const { title, unit, goal = '' } = figure;
  const own = [format(median(downlinkRuns), figure), spread(downlinkRuns, figure)];
  const runs = String(downlinkRuns.length);
  if (peer === undefined) return [title, unit, ...own, '', '', '', goal, runs, ''];
  const ratio = (median(downlinkRuns) / median(peer.runs)).toFixed(2);
  const beside = [format(median(peer.runs), figure), spread(peer.runs, figure), ratio];
  return [title, unit, ...own, ...beside, isSame ? '' : goal, runs, peer.title];
}

function heading(machine: Machine): string[] {
  const { downlink, ...libraries } = machine.versions;
  const others = Object.entries(libraries).map(([name, version]) => `${name} ${version}`);
  return [
    `Downlink ${downlink}, Node.js ${machine.node}, ${others.join(', ')}`,
    `${machine.cpu}, ${machine.cores} cores, ${machine.system}, fsync of 4 KiB ${machine.fsyncMs.toFixed(2)} ms, load ${machine.loadAverage.toFixed(1)}`,
    `${machine.pinned ? 'servers on one core, load on another' : 'nothing pinned to a core'}; ` +
      'medians of the runs, Downlink and its peers in turn',
  ];
}

function summary(values: readonly number[]): { median: number; low: number; high: number; runs: readonly number[] } {
  return { median: median(values), low: Math.min(...values), high: Math.max(...values), runs: values };
}

function spread(values: readonly number[], figure: Figure): string {
  return values.length === 1 ? '' : `(${format(Math.min(...values), figure)}..${format(Math.max(...values), figure)})`;
}

function format(value: number, { unit }: Figure): string {
  const digits = DECIMALS[unit];
  return value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
