import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll } from 'vitest';
import {
  AGGREGATES,
  type History,
  type Point,
  type RefusedLine,
  type WindowPoint,
  type WindowsQuery,
} from '../broker/store/history.ts';
import { telemetryLine } from '../broker/store/line-protocol.ts';
import type { Command } from '../devices/command.ts';
import type { MetricValue } from '../devices/telemetry.ts';
import { uuidV7Source } from '../devices/uuid-v7.ts';

/** What the suites of History's contract are written with. `open` opens the same store each time. */
export type HistoryHarness = { open(): Promise<History> };

/** A Tuesday noon. */
export const T = 1_700_000_000_000n * 1_000_000n;
export const MS = 1_000_000n;
export const DAY_MS = 86_400_000;
export const WEEK = 7n * BigInt(DAY_MS) * MS;
export const ALWAYS = { fromNs: -(2n ** 63n), toNs: 2n ** 63n };

export async function append(history: History, ...lines: string[]): Promise<RefusedLine[]> {
  return history.append(Buffer.from(lines.map((line) => `${line}\n`).join('')));
}

export const newId = uuidV7Source({ now: () => 1_700_000_000_000 });

export function commandOf(deviceId: string, changes: Partial<Command> = {}): Command {
  return {
    id: newId(),
    deviceId,
    name: 'reboot',
    priority: 'normal',
    confirm: 'result',
    reportTimeoutSeconds: 300,
    maxAttempts: 10,
    queuedAt: 1_700_000_000_000,
    historyNs: String(T),
    state: 'queued',
    attempts: 0,
    wakes: 0,
    ...changes,
  };
}

/** Each test has a device of its own. */
export const newDevice = (): string => `d-${randomUUID()}`;

/** A History that is open while the tests of the suite around it run, and short ways to write to it and to read from it. */
export class OpenHistory {
  #history: History | undefined;

  constructor(harness: HistoryHarness) {
    beforeAll(async () => {
      this.history = await harness.open();
    });
    afterAll(() => this.history.close());
  }

  get history(): History {
    if (this.#history === undefined) throw new Error('bug: not open yet');
    return this.#history;
  }

  set history(history: History) {
    this.#history = history;
  }

  async put(device: string, timeNs: bigint, values: Record<string, MetricValue>, givenTs?: number): Promise<void> {
    const [refused] = await append(this.history, telemetryLine(device, values, String(timeNs), givenTs));
    if (refused !== undefined) throw new Error(`refused: ${refused.reason}`);
  }

  readings(
    deviceId: string,
    metric: string,
    changes: Partial<{ fromNs: bigint; toNs: bigint; limit: number }> = {},
  ): Promise<Point[]> {
    return this.history.readings({ deviceId, metric, ...ALWAYS, limit: 10_000, ...changes });
  }

  async valuesOf(deviceId: string, metric: string): Promise<MetricValue[]> {
    return (await this.readings(deviceId, metric)).map((point) => point.value);
  }

  windows(deviceId: string, metric: string, changes: Partial<WindowsQuery> = {}): Promise<WindowPoint[]> {
    return this.history.windows({ deviceId, metric, ...ALWAYS, aggregates: AGGREGATES, limit: 1_000, ...changes });
  }
}
