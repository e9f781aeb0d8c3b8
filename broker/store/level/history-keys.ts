import { sortableTime, timeOfSortable } from './sortable-time.ts';

/**
 * The keys of the embedded History. Values are the text of line protocol's fields, so that nothing is converted on the way in.
 *
 *   p/{device}/{field}/{time}/{number}  a chunk of points of one field (see point-chunks.ts), the first of that time
 *   points                       the number of the last chunk
 *   c/{device}/{time}/{name}     the fields of a command row
 *   d/{device}/{time}/{name}     the command's state: a device's commands by time
 *   t/{time}/{device}/{name}     the command's state: all commands by time
 *   i/{id}                       {device}/{time}/{name}
 *   e/{device}/{time}            the fields of a command event row
 *   a/{time}                     the tags and fields of an audit row
 */
export const CHUNK_COUNT_KEY = 'points';

export type Range = { readonly gte: string; readonly lt: string };

export const POINTS_PREFIX = 'p/';

export function pointsPrefix(deviceId: string): string {
  return `p/${deviceId}/`;
}

export function fieldPrefix(deviceId: string, field: string): string {
  return `p/${deviceId}/${field}/`;
}

export type CommandKeys = { readonly row: string; readonly ofDevice: string; readonly ofAll: string };

export function commandKeys(deviceId: string, time: string, name: string): CommandKeys {
  const place = `${deviceId}/${time}/${name}`;
  return { row: `c/${place}`, ofDevice: `d/${place}`, ofAll: `t/${time}/${deviceId}/${name}` };
}

/** The prefix of `ofDevice`, or without a device of `ofAll`. */
export function commandsPrefix(deviceId: string | undefined): string {
  return deviceId === undefined ? 't/' : `d/${deviceId}/`;
}

/** The key of the row that an `ofDevice` or `ofAll` key stands for. */
export function rowKeyOf(indexKey: string): string {
  const [index, first, second, name] = indexKey.split('/');
  return index === 'd' ? `c/${first}/${second}/${name}` : `c/${second}/${first}/${name}`;
}

/** What a `row` key is made of. */
export function partsOfRowKey(rowKey: string): { device: string; timeNs: string; name: string } {
  const [, device = '', time = '', name = ''] = rowKey.split('/');
  return { device, timeNs: String(timeOfSortable(time)), name };
}

export function commandIdKey(id: string): string {
  return `i/${id}`;
}

export function eventKey(deviceId: string, time: string): string {
  return `e/${deviceId}/${time}`;
}

export function auditKey(time: string): string {
  return `a/${time}`;
}

/** Keys under `prefix` whose time is in [fromNs, toNs). */
export function timeRange(prefix: string, fromNs: bigint, toNs: bigint): Range {
  return { gte: prefix + sortableTime(fromNs), lt: prefix + sortableTime(toNs) };
}

/** Keys under `prefix` whose time, as sortable text, is in [from, to). */
export function textRange(prefix: string, from: string, to: string): Range {
  return { gte: prefix + from, lt: prefix + to };
}

/** Every key under `prefix`: names and times are made of characters before `~`. */
export function allUnder(prefix: string): Range {
  return { gte: prefix, lt: `${prefix}~` };
}
