import type { Operator } from './operator.ts';
import { groupBy, WAYS, type Records, type SentReading, type Way } from './records.ts';

/** Every reading that was acknowledged is in the store, once; whatever else is there was at least sent. */
const PAGE = 10_000;

export type ReadingTally = {
  readonly way: Way;
  sent: number;
  acknowledged: number;
  found: number;
  /** Sent more than once with QoS 1 and without a time of its own, and stored as often as it came: nobody can tell a repeat from a second reading there. */
  untimedTwice: number;
};

export async function verifyReadings(records: Records, operator: Operator, faults: string[]): Promise<ReadingTally[]> {
  const tallies = WAYS.map((way): ReadingTally => ({ way, sent: 0, acknowledged: 0, found: 0, untimedTwice: 0 }));
  for (const [deviceId, sent] of groupBy(records.readings, ({ deviceId }) => deviceId)) {
    const timed = await storedPoints(operator, deviceId, 'timed');
    const untimed = await storedPoints(operator, deviceId, 'untimed');
    const known = new Set(sent.map(({ n }) => n));
    for (const n of [...timed.keys(), ...untimed.keys()])
      if (!known.has(n)) faults.push(`reading ${deviceId} ${n}: stored, but never sent`);
    for (const reading of sent) {
      const tally = tallies.find(({ way }) => way === reading.way);
      if (tally === undefined) throw new Error(`bug: no tally for ${reading.way}`);
      verifyReading(reading, (reading.ts === undefined ? untimed : timed).get(reading.n) ?? [], tally, faults);
    }
  }
  return tallies;
}

function verifyReading(reading: SentReading, times: readonly string[], tally: ReadingTally, faults: string[]): void {
  const { deviceId, n, way, ts, tries, isAcknowledged } = reading;
  const name = `reading ${deviceId} ${n} (${way}, sent ${tries} times)`;
  tally.sent += 1;
  if (isAcknowledged) tally.acknowledged += 1;
  if (times.length > 0) tally.found += 1;
  else if (isAcknowledged) faults.push(`${name}: acknowledged, and not in the store`);
  if (ts !== undefined && times.some((time) => Date.parse(time) !== ts))
    faults.push(`${name}: stored at ${times.join(', ')} in place of ${ts}`);
  if (times.length <= 1) return;
  if (ts === undefined && way === 'mqtt qos 1' && times.length <= tries) tally.untimedTwice += 1;
  else faults.push(`${name}: stored ${times.length} times`);
}

/** Value -> the times at which it is stored. */
async function storedPoints(operator: Operator, deviceId: string, metric: string): Promise<Map<number, string[]>> {
  const times = new Map<number, string[]>();
  let cursor: string | undefined;
  do {
    const after = cursor === undefined ? '' : `&cursor=${cursor}`;
    const answer = await operator.ask('GET', `/v1/devices/${deviceId}/telemetry?metric=${metric}&limit=${PAGE}${after}`);
    if (answer.status !== 200) throw new Error(`readings of ${deviceId} were answered with ${answer.status}`);
    const page = answer.body as { points: { time: string; value: number }[]; cursor?: string };
    for (const { time, value } of page.points) times.set(value, [...(times.get(value) ?? []), time]);
    cursor = page.cursor;
  } while (cursor !== undefined);
  return times;
}
