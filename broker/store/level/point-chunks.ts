/**
 * Points of one field as the embedded History keeps them: those that came together in a chunk, since LevelDB costs as much for one as for
 * a hundred. A chunk's points lie in the same ten seconds, its span, so that who looks for a time knows where to begin. Chunks of a
 * span may overlap; they are numbered as they were written, and of two points with one time the later written holds.
 *
 * A chunk's text is `{time} {length of value}:{value}` for each point, values being field text.
 */
/** A stored reading: its time as sortable text, its value as field text. */
export type StoredPoint = readonly [time: string, value: string];

export type Chunk = { readonly span: string; readonly number: number; readonly points: readonly StoredPoint[] };

/** Of a time in nanoseconds: what is left of it is in units of ten seconds. */
const SPAN_DIGITS = 10;
const NUMBER_DIGITS = 16;

export function spanOf(time: string): string {
  return time.slice(0, -SPAN_DIGITS);
}

/** The earliest time of the span that `time` is in. */
export function spanStart(time: string): string {
  return spanOf(time) + '0'.repeat(SPAN_DIGITS);
}

/** What stands in a chunk's key after its field. */
export function chunkKey(firstTime: string, number: number): string {
  return `${firstTime}/${String(number).padStart(NUMBER_DIGITS, '0')}`;
}

export function pointText(time: string, value: string): string {
  return `${time} ${value.length}:${value}`;
}

/** Reads a chunk back. Without a number in its key it is a single value, as versions before chunks wrote it. */
export function readChunk(key: string, text: string): Chunk {
  const [firstTime = '', number] = key.split('/');
  const span = spanOf(firstTime);
  return number === undefined
    ? { span, number: 0, points: [[firstTime, text]] }
    : { span, number: Number(number), points: pointsOf(text) };
}

/** The number in a chunk's whole key; 0 when there is none. */
export function chunkNumberOf(key: string): number {
  return Number(key.split('/')[4] ?? 0);
}

/** The points of all chunks of one span, oldest first. */
export function mergeChunks(chunks: readonly Chunk[]): readonly StoredPoint[] {
  const [only, ...others] = chunks;
  const points = others.length === 0 ? (only?.points ?? []) : asWritten(chunks);
  if (isInOrder(points)) return points;
  return [...new Map(points)].toSorted(([a], [b]) => (a < b ? -1 : 1));
}

function asWritten(chunks: readonly Chunk[]): StoredPoint[] {
  return chunks.toSorted((a, b) => a.number - b.number).flatMap(({ points }) => points);
}

function isInOrder(points: readonly StoredPoint[]): boolean {
  let last = '';
  for (const [time] of points) {
    if (time <= last) return false;
    last = time;
  }
  return true;
}

function pointsOf(text: string): StoredPoint[] {
  const points: StoredPoint[] = [];
  for (let at = 0; at < text.length;) {
    const space = text.indexOf(' ', at);
    const colon = text.indexOf(':', space);
    const end = colon + 1 + Number(text.slice(space + 1, colon));
    if (space < 0 || colon < 0 || !(end <= text.length)) throw new SyntaxError('a chunk of points cannot be read');
    points.push([text.slice(at, space), text.slice(colon + 1, end)]);
    at = end;
  }
  return points;
}
