import { DownlinkError } from '../devices/downlink-error.ts';

/** Cursors: where the next page starts, as text that says nothing to anybody but the list that gave it. */
export type ListName = 'devices' | 'commands' | 'readings' | 'quarantine' | 'keys' | 'fleet-keys' | 'audit';

export const PAGE_DEFAULT = 100;
export const PAGE_MAX = 1_000;

export function cursorOf(list: ListName, place: string): string {
  return Buffer.from(`${list}:${place}`).toString('base64url');
}

/** Undefined when there is none. Throws `invalid_cursor` for one that this list did not give. */
export function placeOf(list: ListName, cursor: string | undefined, form: RegExp): string | undefined {
  if (cursor === undefined) return undefined;
  const text = Buffer.from(cursor, 'base64url').toString('utf8');
  const place = text.slice(list.length + 1);
  if (!text.startsWith(`${list}:`) || !form.test(place) || cursorOf(list, place) !== cursor) {
    throw new DownlinkError('invalid_cursor', 'this cursor is not one of this list; start again without it', {
      at: 'query.cursor',
    });
  }
  return place;
}

/** A page of `found`, which was asked for one more than `limit`: what is shown, and the cursor where there is more, behind the last one's `place`. */
export function pageOf<T>(
  list: ListName,
  found: readonly T[],
  limit: number,
  place: (last: T) => string,
): { readonly shown: readonly T[]; readonly next: { readonly cursor?: string } } {
  const shown = found.slice(0, limit);
  const last = shown.at(-1);
  return { shown, next: found.length > limit && last !== undefined ? { cursor: cursorOf(list, place(last)) } : {} };
}

/** The next page's place in nanoseconds. */
export function nsPlaceOf(list: ListName, cursor: string | undefined): bigint | undefined {
  const place = placeOf(list, cursor, /^\d{1,19}$/);
  return place === undefined ? undefined : BigInt(place);
}
