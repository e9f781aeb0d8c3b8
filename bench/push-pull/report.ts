import { duration, grouped, table } from '../../simulators/table.ts';
import type { Advice } from './advice.ts';
import type { Measured } from './measured.ts';

/** The comparison for people: one aligned table, and which way for which needs. */
const HEADER = ['way', 'p50', 'p99', 'bytes', 'requests', 'empty', 'radio on', 'server CPU', 'commands', 'missing'];

export function tableLines(measured: readonly Measured[]): string[] {
  const rows = measured.map((way) => [
    way.title,
    duration(finite(way.latencyP50Ms)),
    duration(finite(way.latencyP99Ms)),
    grouped(Math.round(way.bytes)),
    grouped(Math.round(way.requests)),
    grouped(Math.round(way.emptyAnswers)),
    `${way.radioOnSeconds.toFixed(1)} s`,
    `${way.serverCpuMs.toFixed(0)} ms`,
    grouped(way.commands),
    grouped(way.missing),
  ]);
  return [...table([HEADER, ...rows]), '', 'bytes, requests, empty answers, radio and CPU: a device and hour'];
}

export function adviceLines(advice: readonly Advice[]): string[] {
  if (advice.length === 0)
    return [
      'No advice: no command was issued, or each way lost some. Run it for longer (--seconds), with more devices (--devices).',
    ];
  const widest = Math.max(0, ...advice.map(({ need }) => need.length));
  return advice.map(({ need, way, because }) => `${need.padEnd(widest)}   ${way}: ${because}`);
}

function finite(value: number): number | undefined {
  return Number.isFinite(value) ? value : undefined;
}
