import { duration, grouped, table } from '../../simulators/table.ts';
import type { Outcome, Round } from './torture.ts';

/** What the run says: a line a round, and the figures at the end. */
const FAULTS_SHOWN_MAX = 50;

export function roundLine({ nth, moment, livedMs, startMs, acknowledgements, journalBytes }: Round, rounds: number): string {
  const cells = [
    `round ${String(nth).padStart(String(rounds).length)}/${rounds}`,
    `killed ${moment}`.padEnd(20),
    `after ${duration(livedMs)}`.padEnd(13),
    `ready again in ${duration(startMs)}`.padEnd(23),
    `${grouped(acknowledgements)} acknowledgements`,
  ];
  if (journalBytes !== undefined) cells.push(`${grouped(Math.round(journalBytes / 1_024))} KiB in the journal`);
  return cells.join('  ');
}

export function summary({ faults, readings, commands, kills, reconnects, drainMs, dataDir }: Outcome, seed: number): string {
  const states = Array.from(commands.byState, ([state, count]) => `${grouped(count)} ${state}`).toSorted();
  const lines = [
    '',
    ...table([
      ['readings', 'sent', 'acknowledged', 'found', 'repeats without a time'],
      ...readings.map(({ way, sent, acknowledged, found, untimedTwice }) => [
        way,
        grouped(sent),
        grouped(acknowledged),
        grouped(found),
        grouped(untimedTwice),
      ]),
    ]),
    '',
    ...table([
      ['commands', 'issued', 'acknowledged', 'found', 'reports', 'cancels', 'handed over again'],
      [
        '',
        ...[
          commands.issued,
          commands.acknowledged,
          commands.found,
          commands.reports,
          commands.cancels,
          commands.handedOverAgain,
        ].map(grouped),
      ],
    ]),
    '',
    `ended as: ${states.join(', ') || 'none'}`,
    `kills: ${Array.from(kills, ([moment, count]) => `${count} ${moment}`).join(', ')}, 1 at the end; MQTT connections: ${grouped(reconnects)}; all answered within ${duration(drainMs)}`,
    `seed: ${seed}`,
    '',
  ];
  if (faults.length === 0)
    return [...lines, 'Nothing that was acknowledged is missing, and nothing is there twice.', ''].join('\n');
  const shown = faults.slice(0, FAULTS_SHOWN_MAX);
  const more = faults.length > shown.length ? [`… and ${grouped(faults.length - shown.length)} more`] : [];
  return [
    ...lines,
    `${grouped(faults.length)} things are not as they were acknowledged:`,
    ...shown,
    ...more,
    `The data folder is kept: ${dataDir}`,
    '',
  ].join('\n');
}
