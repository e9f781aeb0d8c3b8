import type { Command } from '../../../devices/command.ts';
import { MINUTE_MS } from '../../../devices/clock.ts';
import { isUuidV7, uuidV7Ms } from '../../../devices/uuid-v7.ts';
import { commandOfRow } from '../command-row.ts';
import type { CommandsQuery } from '../history.ts';
import type { InfluxClient, Rows } from './influx-client.ts';
import { nsOfTime, timeCondition } from './influx-time.ts';

/** How far a command's row may be from the millisecond its id was made in. */
const ID_SLACK_NS = BigInt(10 * MINUTE_MS) * 1_000_000n;

/** Newest first; commands of different devices with the very same time in no order of note. */
export async function commands(client: InfluxClient, query: CommandsQuery): Promise<Command[]> {
  const { deviceId, states, fromNs, toNs, limit } = query;
  if (limit <= 0 || fromNs >= toNs || states?.length === 0) return [];
  const placeholders: Record<string, string> = {};
  const conditions = [timeCondition(fromNs, toNs)];
  if (deviceId !== undefined) {
    conditions.push('device = $device');
    placeholders['device'] = deviceId;
  }
  if (states !== undefined) {
    conditions.push(`(${states.map((_, i) => `state = $state${i}`).join(' OR ')})`);
    for (const [i, state] of states.entries()) placeholders[`state${i}`] = state;
  }
  const statement = `SELECT * FROM command WHERE ${conditions.join(' AND ')} ORDER BY time DESC LIMIT ${limit}`;
  const [rows = []] = await client.query([statement], placeholders);
  return rows.flatMap((row) => commandOf(row) ?? []);
}

/** An id is a field and so not indexed; but a UUIDv7 carries its time, next to which its row is. */
export async function command(client: InfluxClient, id: string): Promise<Command | undefined> {
  if (!isUuidV7(id)) return undefined;
  const madeNs = BigInt(uuidV7Ms(id)) * 1_000_000n;
  const range = timeCondition(madeNs - ID_SLACK_NS, madeNs + ID_SLACK_NS);
  const [rows = []] = await client.query([`SELECT * FROM command WHERE id = $id AND ${range} LIMIT 1`], { id });
  const [row] = rows;
  return row && commandOf(row);
}

function commandOf(row: Rows[number]): Command | undefined {
  const { time, device, name, ...fields } = row;
  return commandOfRow({ device: String(device), name: String(name), timeNs: String(nsOfTime(String(time))), fields });
}
