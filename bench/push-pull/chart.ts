import type { Measured } from './measured.ts';

/** The trade-off as a picture: what a way costs the battery against how long a command takes, both on logarithmic axes. */
const WIDTH = 860;
const HEIGHT = 520;
const LEFT = 80;
const RIGHT = 180;
const TOP = 64;
const BOTTOM = 64;
const COLOURS = ['#0b6e99', '#c4472b', '#3f7d20', '#7a4fa3', '#b8860b', '#d1477a', '#2a9d8f', '#5c6670', '#1d3557'];
const SECONDS = [0.001, 0.01, 0.1, 1, 10, 60, 600, 3_600];

type Scale = (value: number) => number;

/** An SVG document; dots are p50, the line above reaches to p99. Ways without a command are left out. */
export function chartOf(measured: readonly Measured[], subtitle: string): string {
  const shown = measured.filter(({ latencyP50Ms }) => Number.isFinite(latencyP50Ms));
  const x = logScale(
    shown.map(({ radioOnSeconds }) => radioOnSeconds),
    LEFT,
    WIDTH - RIGHT,
  );
  const y = logScale(
    shown.flatMap(({ latencyP50Ms, latencyP99Ms }) => [latencyP50Ms, latencyP99Ms]),
    HEIGHT - BOTTOM,
    TOP,
  );
  const parts = [
    text(LEFT, 26, 'What a command costs, and how long it takes', 'font-size="18" font-weight="600"'),
    text(LEFT, 46, subtitle, 'fill="#5c6670"'),
    ...axis(x, y),
    ...shown.map((way, i) => dot(way, x, y, COLOURS[i % COLOURS.length] ?? '#000')),
    ...labels(shown, x, y),
  ];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" font-family="system-ui, sans-serif" font-size="12" role="img">
<title>Latency of a command against radio-on time, by way of delivery</title>
<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>
${parts.join('\n')}
</svg>
`;
}

function logScale(values: readonly number[], from: number, to: number): Scale & { low: number; high: number } {
  const positive = values.filter((value) => value > 0);
  const low = Math.min(...positive) / 1.6;
  const high = Math.max(...positive) * 1.6;
  const scale = (value: number): number =>
    from + ((Math.log(Math.max(value, low)) - Math.log(low)) / (Math.log(high) - Math.log(low) || 1)) * (to - from);
  return Object.assign(scale, { low, high });
}

function axis(x: Scale & { low: number; high: number }, y: Scale & { low: number; high: number }): string[] {
  const bottom = HEIGHT - BOTTOM;
  const right = WIDTH - RIGHT;
  const across = ticksIn(x.low, x.high).flatMap((value) => [
    line(x(value), TOP, x(value), bottom, '#e6e9ec'),
    text(x(value), bottom + 18, secondsText(value), 'text-anchor="middle" fill="#5c6670"'),
  ]);
  const up = ticksIn(y.low / 1_000, y.high / 1_000).flatMap((seconds) => [
    line(LEFT, y(seconds * 1_000), right, y(seconds * 1_000), '#e6e9ec'),
    text(LEFT - 8, y(seconds * 1_000) + 4, secondsText(seconds), 'text-anchor="end" fill="#5c6670"'),
  ]);
  return [
    ...across,
    ...up,
    line(LEFT, bottom, right, bottom, '#5c6670'),
    line(LEFT, TOP, LEFT, bottom, '#5c6670'),
    text((LEFT + right) / 2, HEIGHT - 18, 'radio on, a device and hour', 'text-anchor="middle"'),
    `<text transform="translate(20 ${(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">from issue to arrival, p50 and p99</text>`,
  ];
}

/** Where less than three of the round values fall in, halves and fifths are taken as well. */
function ticksIn(low: number, high: number): number[] {
  const within = (values: readonly number[]): number[] => values.filter((value) => value >= low && value <= high);
  const round = within(SECONDS);
  if (round.length >= 3) return round;
  return within([-3, -2, -1, 0, 1, 2, 3].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power)));
}

function dot({ latencyP50Ms, latencyP99Ms, radioOnSeconds }: Measured, x: Scale, y: Scale, colour: string): string {
  const at = x(radioOnSeconds);
  return [
    `<line x1="${at.toFixed(1)}" y1="${y(latencyP50Ms).toFixed(1)}" x2="${at.toFixed(1)}" y2="${y(latencyP99Ms).toFixed(1)}" stroke="${colour}" stroke-width="2"/>`,
    line(at - 5, y(latencyP99Ms), at + 5, y(latencyP99Ms), colour),
    `<circle cx="${at.toFixed(1)}" cy="${y(latencyP50Ms).toFixed(1)}" r="6" fill="${colour}"/>`,
  ].join('');
}

/** To the right of the dots, each with a thin line to its own, moved apart where they would meet. */
function labels(shown: readonly Measured[], x: Scale, y: Scale): string[] {
  const gap = 18;
  let last = TOP - gap;
  return shown
    .map((way, i) => ({ way, at: y(way.latencyP50Ms), colour: COLOURS[i % COLOURS.length] ?? '#000' }))
    .toSorted((a, b) => a.at - b.at)
    .map(({ way, at, colour }) => {
      last = Math.max(last + gap, at);
      const from = WIDTH - RIGHT + 12;
      return (
        `<path d="M${(x(way.radioOnSeconds) + 8).toFixed(1)} ${at.toFixed(1)} L${from} ${last.toFixed(1)}" stroke="${colour}" stroke-width="0.7" opacity="0.5" fill="none"/>` +
        text(from + 4, last + 4, way.title, `fill="${colour}" font-weight="600"`)
      );
    });
}

function line(x1: number, y1: number, x2: number, y2: number, colour: string): string {
  return `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="${colour}"/>`;
}

function text(x: number, y: number, words: string, attributes: string): string {
  const safe = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${safe}</text>`;
}

function secondsText(seconds: number): string {
  if (seconds < 1) return `${+(seconds * 1_000).toPrecision(3)} ms`;
  if (seconds < 60 || seconds % 60 !== 0) return `${seconds.toLocaleString('en-US')} s`;
  return seconds < 3_600 ? `${seconds / 60} min` : `${seconds / 3_600} h`;
}
