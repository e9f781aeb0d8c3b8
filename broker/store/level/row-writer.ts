import type { ChainedBatch } from 'classic-level';
import { isDeviceId } from '../../../devices/device.ts';
import type { RefusedLine } from '../history.ts';
import { parseFields, parseRow, valueOf, type Row } from '../line-parser.ts';
import { rowEnds } from '../line-rows.ts';
import { auditKey, CHUNK_COUNT_KEY, commandIdKey, commandKeys, eventKey, fieldPrefix, type CommandKeys } from './history-keys.ts';
import type { Database } from './open-level.ts';
import { chunkKey, pointText, spanOf } from './point-chunks.ts';
import { sortableTimeOf } from './sortable-time.ts';

/** The number of the last chunk of points. */
export type ChunkCount = { last: number };

/** Fields put before the event loop gets its turn: some 2 ms. */
const FIELDS_A_TURN = 1_000;
const COMMANDS_A_TURN = 250;
/** The first fields of a row that commandLine wrote, which has all there is to say. Others add to what is there. */
const WHOLE_ROW_STARTS_WITH = ['id', 'state'];

/** Writes line protocol in one batch, durable when it resolves. Rows that are none of History's come back with the reason. */
export async function writeRows(db: Database, text: string, chunks: ChunkCount): Promise<RefusedLine[]> {
  const refused: RefusedLine[] = [];
  const batch = new RowBatch(db, chunks);
  try {
    let start = 0;
    let fields = 0;
    for (const end of rowEnds(text)) {
      if (end > start) {
        try {
          const row = parseRow(text, start, end, fieldsNeeded);
          batch.add(row, text);
          fields += Math.max(row.fields.length / 2, 1);
        } catch (error) {
          if (!(error instanceof SyntaxError)) throw error;
          refused.push({ line: text.slice(start, end), reason: error.message });
        }
      }
      start = end + 1;
      if (fields < FIELDS_A_TURN) continue;
      fields = 0;
      await new Promise(setImmediate);
    }
    await batch.write();
  } finally {
    await batch.close();
  }
  return refused;
}

type CommandRow = {
  readonly keys: CommandKeys;
  /** Id and state among them. */
  readonly fields: readonly string[];
  readonly text: string;
};
/** A chunk of points that grows. */
type Gathering = { readonly span: string; firstTime: string; text: string };

/** Rows with the same key merge their fields, also within the batch; of whole rows of a command the last is put. */
class RowBatch {
  readonly #db: Database;
  readonly #batch: ChainedBatch<Database, string, string>;
  readonly #commands = new Map<string, CommandRow>();
  /** By device and field. */
  readonly #gathering = new Map<string, Map<string, Gathering>>();
  readonly #chunks: ChunkCount;

  constructor(db: Database, chunks: ChunkCount) {
    this.#db = db;
    this.#chunks = chunks;
    this.#batch = db.batch();
  }

  /** Takes a row that was read from `text`. Throws SyntaxError with the reason when it is of none of History's measurements. */
  add({ measurement, tags, fields, fieldsFrom, fieldsTo, timeNs }: Row, text: string): void {
    if (measurement === 'audit') {
      const given = tags.flatMap((part, i) => (i % 2 === 0 ? [`${part}="${tags[i + 1] ?? ''}"`] : []));
      return this.#put(auditKey(sortableTimeOf(timeNs)), [...given, text.slice(fieldsFrom, fieldsTo)].join(','));
    }
    const [tag, device, nameTag, name] = tags;
    if (tag !== 'device' || device === undefined || !isDeviceId(device)) throw new SyntaxError('a row has a device');
    const time = sortableTimeOf(timeNs);
    switch (measurement) {
      case 'telemetry':
        return this.#gather(device, fields, time);
      case 'command': {
        if (nameTag !== 'name' || name === undefined) throw new SyntaxError('a command row has a name');
        const keys = commandKeys(device, time, name);
        const given = text.slice(fieldsFrom, fieldsTo);
        const isWhole = WHOLE_ROW_STARTS_WITH.every((field, i) => fields[2 * i] === field);
        this.#commands.set(keys.row, isWhole ? { keys, fields, text: given } : this.#merged(keys, parseFields(given)));
        return;
      }
      case 'command_event':
        // Of one time there is one, written once: nothing to merge.
        this.#put(eventKey(device, time), text.slice(fieldsFrom, fieldsTo));
        return;
      default:
        throw new SyntaxError('the measurement is none of telemetry, command, command_event and audit');
    }
  }

  async write(): Promise<void> {
    let put = 0;
    for (const [device, byField] of this.#gathering) {
      for (const [field, chunk] of byField) {
        this.#putChunk(device, field, chunk);
        put += 1;
        if (put % FIELDS_A_TURN === 0) await new Promise(setImmediate);
      }
    }
    if (put > 0) this.#put(CHUNK_COUNT_KEY, String(this.#chunks.last));
    put = 0;
    for (const { keys, fields, text } of this.#commands.values()) {
      const state = String(valueOf(fieldOf(fields, 'state') ?? '""'));
      const id = fieldOf(fields, 'id');
      this.#put(keys.row, text);
      this.#put(keys.ofDevice, state);
      this.#put(keys.ofAll, state);
      if (id !== undefined) this.#put(commandIdKey(String(valueOf(id))), keys.row);
      put += 1;
      if (put % COMMANDS_A_TURN === 0) await new Promise(setImmediate);
    }
    await this.#batch.write({ sync: true });
  }

  async close(): Promise<void> {
    await this.#batch.close();
  }

  #gather(device: string, fields: readonly string[], time: string): void {
    const byField = this.#gathering.get(device) ?? new Map<string, Gathering>();
    if (byField.size === 0) this.#gathering.set(device, byField);
    const span = spanOf(time);
    for (let i = 0; i < fields.length; i += 2) {
      const [field = '', value = ''] = [fields[i], fields[i + 1]];
      const chunk = byField.get(field);
      const text = pointText(time, value);
      if (chunk?.span === span) {
        chunk.text += text;
        if (time < chunk.firstTime) chunk.firstTime = time;
      } else {
        if (chunk !== undefined) this.#putChunk(device, field, chunk);
        byField.set(field, { span, firstTime: time, text });
      }
    }
  }

  #putChunk(device: string, field: string, { firstTime, text }: Gathering): void {
    this.#chunks.last += 1;
    this.#put(fieldPrefix(device, field) + chunkKey(firstTime, this.#chunks.last), text);
  }

  #merged(keys: CommandKeys, fields: readonly string[]): CommandRow {
    const before = this.#commands.get(keys.row)?.text ?? this.#db.getSync(keys.row);
    const merged = new Map<string, string>();
    for (const given of before === undefined ? [fields] : [parseFields(before), fields]) {
      for (let i = 0; i < given.length; i += 2) merged.set(given[i] ?? '', given[i + 1] ?? '');
    }
    const text = Array.from(merged, ([field, value]) => `${field}=${value}`).join(',');
    return { keys, fields: [...merged].flat(), text };
  }

  // A chained batch costs 1.3 µs a put, an array of operations 10 µs.
  #put(key: string, value: string): void {
    this.#batch.put(key, value);
  }
}

/** Most rows are kept as the text that they are. */
function fieldsNeeded(measurement: string): number {
  if (measurement === 'telemetry') return Number.POSITIVE_INFINITY;
  return measurement === 'command' ? WHOLE_ROW_STARTS_WITH.length : 0;
}

function fieldOf(fields: readonly string[], name: string): string | undefined {
  for (let i = 0; i < fields.length; i += 2) if (fields[i] === name) return fields[i + 1];
  return undefined;
}
