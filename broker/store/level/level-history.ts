import type { Command } from '../../../devices/command.ts';
import { DownlinkError } from '../../../devices/downlink-error.ts';
import { isMetricName } from '../../../devices/telemetry.ts';
import { commandOfRow } from '../command-row.ts';
import type { CommandsQuery, History, Point, ReadingsQuery, RefusedLine, WindowPoint, WindowsQuery } from '../history.ts';
import { parseFields, valueOf } from '../line-parser.ts';
import { fieldOfMetric, GIVEN_TS_FIELD, metricOfField } from '../line-protocol.ts';
import type { Snapshot } from '../snapshot.ts';
import * as keys from './history-keys.ts';
import { chunkNumberOf, mergeChunks, readChunk, spanStart, type Chunk, type StoredPoint } from './point-chunks.ts';
import { tallyWindows } from './point-windows.ts';
import { isOfDamage, openLevel, type Database, type OpenLevelOptions } from './open-level.ts';
import { snapshotOf } from './snapshot.ts';
import { writeRows, type ChunkCount } from './row-writer.ts';
import { sortableTime, timeOfSortable } from './sortable-time.ts';

const ENTRIES_A_READ = 1_000;
const READ_BYTES = 256 * 1024;
/** With LevelDB's own 4 and 2 MiB, compaction held appends up five times longer. */
const WRITE_BUFFER_BYTES = 16 * 1024 * 1024;
/** After every time there is. */
const NO_END = '~';
const FILE_BYTES_MAX = 8 * 1024 * 1024;
/** Of tables at a start, the newest first: about a second. Damage in older ones is met when they are read or compacted. */
const CHECKED_BYTES_MAX = 256 * 1024 * 1024;

/** The embedded History: LevelDB in a folder of its own. */
export class LevelHistory implements History {
  readonly #db: Database;
  readonly #folder: string;
  readonly #settings: OpenLevelOptions;
  readonly #chunks: ChunkCount;
  /** Writes run one after the other: command rows are read, merged and put back. */
  #writing: Promise<unknown> = Promise.resolve();
  #mustReopen = false;
  /** The last write met damage: the folder is mended before it is opened again. */
  #isDamaged = false;
  #closing: Promise<void> | undefined;

  private constructor(db: Database, chunks: ChunkCount, folder: string, settings: OpenLevelOptions) {
    this.#db = db;
    this.#chunks = chunks;
    this.#folder = folder;
    this.#settings = settings;
  }

  /** Opens or makes the folder. Throws the LevelDB error as it is (`LEVEL_LOCKED` as its cause's code when another process holds it). */
  static async open(folder: string, onDamage: (line: string) => void = () => {}): Promise<LevelHistory> {
    const settings: OpenLevelOptions = {
      options: { writeBufferSize: WRITE_BUFFER_BYTES, maxFileSize: FILE_BYTES_MAX },
      checkedBytesMax: CHECKED_BYTES_MAX,
      onDamage,
    };
    const { db, wasDamaged } = await openLevel(folder, settings);
    const last = wasDamaged ? await highestChunk(db) : Number((await db.get(keys.CHUNK_COUNT_KEY)) ?? 0);
    return new LevelHistory(db, { last }, folder, settings);
  }

  append(lines: Buffer): Promise<RefusedLine[]> {
    return this.#inTurn(() => writeRows(this.#db, lines.toString(), this.#chunks));
  }

  async readings(query: ReadingsQuery): Promise<Point[]> {
    const { deviceId, metric, fromNs, toNs, limit } = query;
    if (!isMetricName(metric) || limit <= 0) return [];
    return orUnavailable(async () => {
      const points: Point[] = [];
      for await (const page of this.#points(deviceId, fieldOfMetric(metric), sortableTime(fromNs), sortableTime(toNs))) {
        for (const stored of page.slice(0, limit - points.length)) points.push(pointOf(stored));
        if (points.length === limit) break;
      }
      return this.#marked(deviceId, points);
    });
  }

  async windows(query: WindowsQuery): Promise<WindowPoint[]> {
    const { deviceId, metric, fromNs, toNs, limit } = query;
    if (!isMetricName(metric) || limit <= 0) return [];
    const [from, to] = [sortableTime(fromNs), sortableTime(toNs)];
    return orUnavailable(() => tallyWindows(this.#points(deviceId, fieldOfMetric(metric), from, to), query));
  }

  async latest(deviceId: string): Promise<Map<string, Point>> {
    return orUnavailable(async () => {
      const newest = new Map<string, Point>();
      const prefix = keys.pointsPrefix(deviceId);
      const iterator = this.#db.iterator({ ...keys.allUnder(prefix), reverse: true });
      try {
        for (let entry = await iterator.next(); entry !== undefined; entry = await iterator.next()) {
          const [field = '', time = ''] = entry[0].slice(prefix.length).split('/');
          if (field !== GIVEN_TS_FIELD) {
            let last: StoredPoint | undefined;
            for await (const page of this.#points(deviceId, field, spanStart(time), NO_END)) last = page.at(-1) ?? last;
            const [point] = await this.#marked(deviceId, last === undefined ? [] : [pointOf(last)]);
            if (point !== undefined) newest.set(metricOfField(field), point);
          }
          // On to the newest of the field before this one, past all of this one's points.
          iterator.seek(keys.fieldPrefix(deviceId, field));
        }
      } finally {
        await iterator.close();
      }
      return newest;
    });
  }

  async commands(query: CommandsQuery): Promise<Command[]> {
    const { deviceId, states, fromNs, toNs, limit } = query;
    if (limit <= 0) return [];
    return orUnavailable(async () => {
      const wanted = states && new Set<string>(states);
      const commands: Command[] = [];
      const range = keys.timeRange(keys.commandsPrefix(deviceId), fromNs, toNs);
      for await (const page of this.#entries({ ...range, reverse: true })) {
        const rowKeys = page
          .filter(([, state]) => wanted?.has(state) ?? true)
          .slice(0, limit - commands.length)
          .map(([key]) => keys.rowKeyOf(key));
        const rows = await this.#db.getMany(rowKeys);
        for (const [i, rowKey] of rowKeys.entries()) {
          const command = commandOf(rowKey, rows[i]);
          if (command !== undefined) commands.push(command);
        }
        if (commands.length >= limit) break;
      }
      return commands;
    });
  }

  async command(id: string): Promise<Command | undefined> {
    return orUnavailable(async () => {
      const rowKey = await this.#db.get(keys.commandIdKey(id));
      return rowKey === undefined ? undefined : commandOf(rowKey, await this.#db.get(rowKey));
    });
  }

  async devices(limit: number): Promise<string[]> {
    return orUnavailable(async () => {
      const ids = new Set<string>();
      for (const kind of ['p', 'd']) {
        // From one device to the next, past all that a device has.
        let after = `${kind}/`;
        for (let count = 0; count < limit; count += 1) {
          const [key] = await this.#db.keys({ gte: after, lt: `${kind}/~`, limit: 1 }).all();
          const id = key?.split('/')[1];
          if (id === undefined) break;
          ids.add(id);
          after = `${kind}/${id}/~`;
        }
      }
      return [...ids].toSorted().slice(0, limit);
    });
  }

  /** All of it as it is at this call, whatever is appended later. */
  snapshot(): Snapshot {
    return snapshotOf(this.#db);
  }

  check(): Promise<void> {
    return this.#inTurn(() => this.#db.put('checked', ''));
  }

  close(): Promise<void> {
    this.#closing ??= this.#writing.then(() => this.#db.close());
    return this.#closing;
  }

  /** `points` (oldest first) with the devices' own times where they were replaced. */
  async #marked(deviceId: string, points: Point[]): Promise<Point[]> {
    const [first, last] = [points[0], points.at(-1)];
    if (first === undefined || last === undefined) return points;
    const marks = new Map<bigint, number | undefined>(points.map((point) => [point.timeNs, undefined]));
    const [from, to] = [sortableTime(first.timeNs), sortableTime(last.timeNs + 1n)];
    for await (const page of this.#points(deviceId, GIVEN_TS_FIELD, from, to)) {
      for (const [time, value] of page) {
        const timeNs = timeOfSortable(time);
        if (marks.has(timeNs)) marks.set(timeNs, Number(value));
      }
    }
    return points.map((point) => {
      const givenTs = marks.get(point.timeNs);
      return givenTs === undefined ? point : { ...point, givenTs };
    });
  }

  /** Points with times in [from, to), oldest first. */
  async *#points(deviceId: string, field: string, from: string, to: string): AsyncGenerator<StoredPoint[]> {
    const prefix = keys.fieldPrefix(deviceId, field);
    const isWanted = ([time]: StoredPoint): boolean => time >= from && time < to;
    let chunks: Chunk[] = [];
    for await (const page of this.#entries(keys.textRange(prefix, spanStart(from), to))) {
      const points: StoredPoint[] = [];
      for (const [key, text] of page) {
        const chunk = readChunk(key.slice(prefix.length), text);
        if (chunks[0] !== undefined && chunks[0].span !== chunk.span) {
          for (const point of mergeChunks(chunks)) if (isWanted(point)) points.push(point);
          chunks = [];
        }
        chunks.push(chunk);
      }
      yield points;
    }
    yield mergeChunks(chunks).filter(isWanted);
  }

  async *#entries(options: keys.Range & { reverse?: boolean }): AsyncGenerator<[key: string, value: string][]> {
    const iterator = this.#db.iterator({ ...options, highWaterMarkBytes: READ_BYTES });
    try {
      for (let page = await iterator.nextv(ENTRIES_A_READ); page.length > 0; page = await iterator.nextv(ENTRIES_A_READ)) {
        yield page;
      }
    } finally {
      await iterator.close();
    }
  }

  /** LevelDB may refuse all writes after one that failed until it is opened anew: that is done before the next one. */
  #inTurn<T>(write: () => Promise<T>): Promise<T> {
    const done = this.#writing.then(() =>
      orUnavailable(async () => {
        if (this.#mustReopen && this.#closing === undefined) {
          await this.#db.close();
          if (this.#isDamaged) {
            const { db } = await openLevel(this.#folder, { ...this.#settings, checkedBytesMax: Number.POSITIVE_INFINITY });
            await db.close();
          }
          await this.#db.open();
        }
        this.#mustReopen = true;
        const result = await write().catch((error: unknown) => {
          this.#isDamaged = isOfDamage(error);
          throw error;
        });
        this.#mustReopen = false;
        this.#isDamaged = false;
        return result;
      }),
    );
    this.#writing = done.catch(() => {});
    return done;
  }
}

/** The count is not to be trusted after a repair: no chunk may be written over another. */
async function highestChunk(db: Database): Promise<number> {
  let highest = 0;
  for await (const key of db.keys(keys.allUnder(keys.POINTS_PREFIX))) highest = Math.max(highest, chunkNumberOf(key));
  return highest;
}

function pointOf([time, value]: StoredPoint): Point {
  return { timeNs: timeOfSortable(time), value: valueOf(value) };
}

function commandOf(rowKey: string, fieldsText: string | undefined): Command | undefined {
  if (fieldsText === undefined) return undefined;
  const fields: Record<string, unknown> = {};
  const given = parseFields(fieldsText);
  for (let i = 0; i < given.length; i += 2) fields[given[i] ?? ''] = valueOf(given[i + 1] ?? '');
  return commandOfRow({ ...keys.partsOfRowKey(rowKey), fields });
}

async function orUnavailable<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { message, cause } = error as Error;
    const words = cause instanceof Error ? `${message}: ${cause.message}` : message;
    throw new DownlinkError('history_unavailable', `the embedded History cannot be used: ${words}`, { cause: error });
  }
}
