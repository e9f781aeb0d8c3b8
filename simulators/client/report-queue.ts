import { MESSAGE_BYTES_MAX } from '../../devices/telemetry.ts';
import type { Report } from '../../devices/report.ts';
import type { Delivery } from './device-client.ts';

/**
 * Reports on their way to the server, by whichever link comes first. One report a command waits at most: a newer one takes the
 * place of an older, and nothing follows an end; while one is under way, nothing else of its command is. Ends go before progress. When the queue is full
 * the oldest progress is dropped, else the oldest end, which stays on record as unreported.
 */
export class ReportQueue {
  readonly #entries = new Map<string, Entry>();
  readonly #settled: Settled;
  readonly #reportsMax: number;

  constructor(settled: Settled, reportsMax = REPORTS_MAX_DEFAULT) {
    this.#settled = settled;
    this.#reportsMax = reportsMax;
  }

  add(commandId: string, report: Report): void {
    const entry = this.#entries.get(commandId);
    if (entry === undefined) {
      if (this.#entries.size >= this.#reportsMax) this.#dropOldest();
      this.#entries.set(commandId, { waiting: report });
      return;
    }
    if (isEnd(entry.waiting ?? entry.underWay)) return;
    entry.waiting = report;
  }

  /** Commands of which a report is waiting or under way. */
  get size(): number {
    return this.#entries.size;
  }

  /** The next report to send; the caller settles it or puts it back. Undefined when none waits. */
  take(): ReportParcel | undefined {
    let progress: string | undefined;
    for (const [commandId, { waiting, underWay }] of this.#entries) {
      if (waiting === undefined || underWay !== undefined) continue;
      if (isEnd(waiting)) return this.#parcel(commandId, waiting);
      progress ??= commandId;
    }
    const waiting = progress === undefined ? undefined : this.#entries.get(progress)?.waiting;
    return progress === undefined || waiting === undefined ? undefined : this.#parcel(progress, waiting);
  }

  /** As many as go into one message of `reportsMax` reports and 256 KiB. */
  takeMany(reportsMax: number): ReportParcel[] {
    const parcels: ReportParcel[] = [];
    let bytes = 0;
    while (parcels.length < reportsMax) {
      const parcel = this.take();
      if (parcel === undefined) break;
      bytes += Buffer.byteLength(JSON.stringify(parcel.report)) + parcel.commandId.length + ENTRY_BYTES;
      if (parcels.length > 0 && bytes > MESSAGE_BYTES_MAX / 2) {
        parcel.putBack();
        break;
      }
      parcels.push(parcel);
    }
    return parcels;
  }

  /** Gives up all that is left. */
  close(): void {
    for (const [commandId, { waiting, underWay }] of [...this.#entries]) {
      const report = waiting ?? underWay;
      this.#entries.delete(commandId);
      if (report !== undefined) this.#settled(commandId, report, 'dropped');
    }
  }

  #parcel(commandId: string, report: Report): ReportParcel {
    const entry: Entry = { waiting: undefined, underWay: report };
    this.#entries.set(commandId, entry);
    const finish = (): boolean => {
      // Dropped by `close`, or settled before.
      if (this.#entries.get(commandId) !== entry || entry.underWay === undefined) return false;
      entry.underWay = undefined;
      return true;
    };
    return {
      commandId,
      report,
      settle: (delivery, code) => {
        if (!finish()) return;
        if (entry.waiting === undefined) this.#entries.delete(commandId);
        this.#settled(commandId, report, delivery, code);
      },
      putBack: () => {
        if (!finish()) return;
        entry.waiting ??= report;
        // Behind the others, so that one that the server cannot take keeps nobody waiting.
        this.#entries.delete(commandId);
        this.#entries.set(commandId, entry);
      },
    };
  }

  #dropOldest(): void {
    let oldest: [string, Report] | undefined;
    for (const [commandId, { waiting, underWay }] of this.#entries) {
      if (waiting === undefined || underWay !== undefined) continue;
      oldest ??= [commandId, waiting];
      if (isEnd(waiting)) continue;
      oldest = [commandId, waiting];
      break;
    }
    if (oldest === undefined) return;
    this.#entries.delete(oldest[0]);
    this.#settled(...oldest, 'dropped');
  }
}

/** A report in the hands of a link. Settled or put back once; what comes after that changes nothing. */
export type ReportParcel = {
  readonly commandId: string;
  readonly report: Report;
  readonly settle: (delivery: Delivery, code?: string) => void;
  readonly putBack: () => void;
};

type Settled = (commandId: string, report: Report, delivery: Delivery, code?: string) => void;

type Entry = { waiting: Report | undefined; underWay?: Report | undefined };

const REPORTS_MAX_DEFAULT = 1_000;
/** What stands around a report in a message of several. */
const ENTRY_BYTES = 32;

export function isEnd(report: Report | undefined): boolean {
  return report !== undefined && report.state !== 'running';
}
