import type { MetricValue } from '../../devices/telemetry.ts';
import { UserError } from '../user-error.ts';
import type { Row } from './csv-rows.ts';

/** What a recorded file holds, as the server must hold it afterwards: of rows with the same time, the last counts. */
export type Recording = {
  readonly rows: number;
  readonly distinctTimes: number;
  /** Epoch milliseconds of the first and the last reading. */
  readonly from: number;
  readonly to: number;
  /** The first row that is earlier than the one before it; absent when they are in order. */
  readonly firstRowOutOfOrder?: number;
  /** Of numbers. */
  readonly statistics?: { readonly mean: number; readonly min: number; readonly max: number };
};

/** Rows out of order are remembered to tell the repeated times among them; above this they must be sorted first. */
export const UNSORTED_ROWS_MAX = 5_000_000;

/** Reads a file through `open`, once when it is in order, twice when not. Throws what the rows throw. */
export async function examine(open: () => AsyncIterable<Row>): Promise<Recording> {
  const sorted = await examineSorted(open());
  return typeof sorted === 'number' ? examineUnsorted(open(), sorted) : sorted;
}

/** In one pass, in little memory. Answers the first row that is out of order, if there is one. */
async function examineSorted(rows: AsyncIterable<Row>): Promise<Recording | number> {
  const statistics = new Statistics();
  let count = 0;
  let from: number | undefined;
  let last: Row | undefined;
  let outOfOrder: number | undefined;
  for await (const row of rows) {
    // It is read to its end all the same: every row is checked before anything is sent.
    if (outOfOrder !== undefined) continue;
    if (last !== undefined && row.ts < last.ts) {
      outOfOrder = row.row;
      continue;
    }
    if (last !== undefined && row.ts > last.ts) statistics.add(last.value);
    count += 1;
    from ??= row.ts;
    last = row;
  }
  if (outOfOrder !== undefined) return outOfOrder;
  if (last === undefined || from === undefined) throw new UserError('The file has no rows.');
  statistics.add(last.value);
  return { rows: count, distinctTimes: statistics.count, from, to: last.ts, ...statistics.result() };
}

async function examineUnsorted(rows: AsyncIterable<Row>, firstRowOutOfOrder: number): Promise<Recording> {
  const byTime = new Map<number, MetricValue>();
  let [count, from, to] = [0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for await (const { ts, value } of rows) {
    count += 1;
    from = Math.min(from, ts);
    to = Math.max(to, ts);
    byTime.set(ts, value);
    if (byTime.size > UNSORTED_ROWS_MAX) {
      throw new UserError(
        `Row ${firstRowOutOfOrder} is earlier than the one before it, and the file is too long to sort here: sort it by time first.`,
      );
    }
  }
  const statistics = new Statistics();
  for (const value of byTime.values()) statistics.add(value);
  return { rows: count, distinctTimes: byTime.size, from, to, firstRowOutOfOrder, ...statistics.result() };
}

class Statistics {
  count = 0;
  #numbers = 0;
  #sum = 0;
  #lost = 0;
  #min = Number.POSITIVE_INFINITY;
  #max = Number.NEGATIVE_INFINITY;

  /** Summed as Neumaier does: what rounding loses is kept and added in the end. */
  add(value: MetricValue): void {
    this.count += 1;
    if (typeof value !== 'number') return;
    this.#numbers += 1;
    const sum = this.#sum + value;
    this.#lost += Math.abs(this.#sum) >= Math.abs(value) ? this.#sum - sum + value : value - sum + this.#sum;
    this.#sum = sum;
    this.#min = Math.min(this.#min, value);
    this.#max = Math.max(this.#max, value);
  }

  result(): Pick<Recording, 'statistics'> {
    if (this.#numbers === 0) return {};
    return { statistics: { mean: (this.#sum + this.#lost) / this.#numbers, min: this.#min, max: this.#max } };
  }
}
