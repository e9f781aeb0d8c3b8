import type { Figure } from './bench-case.ts';
import type { Machine } from './machine.ts';
import { median } from './statistics.ts';

/** The results as one table, or as JSON. */
export type Result = {
  readonly figure: Figure;
  readonly peer: string;
  /** One value a run. */
  readonly downlinkRuns: readonly number[];
  readonly peerRuns: readonly number[];
};

export function asJson(results: readonly Result[], machine: Machine, runs: number): string {
  return JSON.stringify(
    {
      machine,
      runs,
      results: results.map(({ figure, peer, downlinkRuns, peerRuns }) => ({
        ...figure,
        downlink: summary(downlinkRuns),
        peer: { title: peer, ...summary(peerRuns) },
      })),
    },
    null,
    2,
  );
}

export function asTable(results: readonly Result[], machine: Machine, runs: number): string {
  const rows = results.map(({ figure, peer, downlinkRuns, peerRuns }) => [
    figure.title,
    figure.unit,
    format(median(downlinkRuns), figure),
    spread(downlinkRuns, figure),
    format(median(peerRuns), figure),
    spread(peerRuns, figure),
    (median(downlinkRuns) / median(peerRuns)).toFixed(2),
    peer,
  ]);
  const header = ['', 'unit', 'Downlink', '(low..high)', 'peer', '(low..high)', 'ratio', 'the peer'];
  const leftAligned = new Set([0, 1, 7]);
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: string[]): string =>
    cells
      .map((cell, i) => (leftAligned.has(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ')
      .trimEnd();
  return [...heading(machine, runs), '', line(header), ...rows.map(line)].join('\n');
}

function heading(machine: Machine, runs: number): string[] {
  const { downlink, ...libraries } = machine.versions;
  const others = Object.entries(libraries).map(([name, version]) => `${name} ${version}`);
  return [
    `Downlink ${downlink}, Node.js ${machine.node}, ${others.join(', ')}`,
    `${machine.cpu}, ${machine.cores} cores, ${machine.system}, fsync of 4 KiB ${machine.fsyncMs.toFixed(2)} ms, load ${machine.loadAverage.toFixed(1)}`,
    `${machine.pinned ? 'servers on one core, load on another' : 'nothing pinned to a core'}; ` +
      (runs === 1 ? 'one run' : `median of ${runs} runs, Downlink and peer in turn`),
  ];
}

function summary(values: readonly number[]): { median: number; low: number; high: number; runs: readonly number[] } {
  return { median: median(values), low: Math.min(...values), high: Math.max(...values), runs: values };
}

function spread(values: readonly number[], figure: Figure): string {
  return `(${format(Math.min(...values), figure)}..${format(Math.max(...values), figure)})`;
}

function format(value: number, { unit }: Figure): string {
  return unit === 'ms' ? value.toFixed(2) : Math.round(value).toLocaleString('en-US');
}
