/**
 * Conditional requests (RFC 9110, 13) for something whose state is in memory: a tag, and the millisecond of its last change. Pure.
 */
export type Validators = {
  /** A weak entity tag, quotes included. */
  readonly etag: string;
  /** Another that stands for what is no different to its holder. */
  readonly etagBefore?: string | undefined;
  /** Epoch milliseconds; no two changes on either side of an answer share one. */
  readonly lastChangeAt: number;
};

export type Conditions = { readonly 'if-none-match'?: string | undefined; readonly 'if-modified-since'?: string | undefined };

const SECOND_MS = 1_000;

export function isConditional(headers: Conditions): boolean {
  return headers['if-none-match'] !== undefined || headers['if-modified-since'] !== undefined;
}

/** True when the answer is 304. `If-None-Match` makes `If-Modified-Since` count for nothing (RFC 9110, 13.2.2). */
export function isNotModified(headers: Conditions, validators: Validators, now: number): boolean {
  const tags = headers['if-none-match'];
  if (tags !== undefined) {
    const { etag, etagBefore } = validators;
    return matchesAny(tags, etag) || (etagBefore !== undefined && matchesAny(tags, etagBefore));
  }
  const date = headers['if-modified-since'];
  const given = date === undefined ? undefined : httpDateMs(date);
  // A date that is still to come is of another clock, or of this one before it was set back: it says nothing.
  return given !== undefined && given <= now && validators.lastChangeAt <= given;
}

/**
 * `Last-Modified`: the second that the change was in, rounded up, so that the change counts as known by who gives it back. Until that second has
 * passed another change may fall into it, and the second before is told.
 */
export function lastModifiedOf(lastChangeAt: number, now: number): string {
  const up = Math.ceil(lastChangeAt / SECOND_MS) * SECOND_MS;
  return httpDate(up < now ? up : up - SECOND_MS);
}

let lastDate = { ms: Number.NaN, text: '' };

/** The one made last is kept: the most frequent answers are of devices that nothing has happened to, and all say the same. */
function httpDate(ms: number): string {
  if (lastDate.ms !== ms) lastDate = { ms, text: new Date(ms).toUTCString() };
  return lastDate.text;
}

const TAG_LIST = /^\s*,*\s*(?:(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"\s*(?:,\s*|$))+$/;
const TAG = /(?:W\/)?("[\x21\x23-\x7e\x80-\xff]*")/g;

/** Weak comparison (RFC 9110, 8.8.3.2) with each of a list; `*` is whatever there is. What is no list of tags matches nothing. */
function matchesAny(given: string, etag: string): boolean {
  if (given.trim() === '*') return true;
  if (!TAG_LIST.test(given)) return false;
  const wanted = etag.replace(/^W\//, '');
  for (const [, opaque] of given.matchAll(TAG)) if (opaque === wanted) return true;
  return false;
}

const DAY_NAME = '(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)';
const IMF_FIXDATE = new RegExp(`^${DAY_NAME}, (\\d{2}) ([A-Z][a-z]{2}) (\\d{4}) (\\d{2}:\\d{2}:\\d{2}) GMT$`);
const RFC_850 = /^(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (\d{2})-([A-Z][a-z]{2})-(\d{2}) (\d{2}:\d{2}:\d{2}) GMT$/;
const ASCTIME = new RegExp(`^${DAY_NAME} ([A-Z][a-z]{2}) ([ \\d]\\d) (\\d{2}:\\d{2}:\\d{2}) (\\d{4})$`);

/** Epoch milliseconds of an HTTP-date in any of its three forms (RFC 9110, 5.6.7); undefined when it is none. */
export function httpDateMs(text: string): number | undefined {
  const fixed = IMF_FIXDATE.exec(text);
  if (fixed !== null) return utc(fixed[1], fixed[2], fixed[3], fixed[4]);
  const rfc850 = RFC_850.exec(text);
  if (rfc850 !== null) return utc(rfc850[1], rfc850[2], `${Number(rfc850[3]) < 70 ? 20 : 19}${rfc850[3]}`, rfc850[4]);
  const asctime = ASCTIME.exec(text);
  if (asctime !== null) return utc(asctime[2]?.trim(), asctime[1], asctime[4], asctime[3]);
  return undefined;
}

function utc(
  day: string | undefined,
  month: string | undefined,
  year: string | undefined,
  time: string | undefined,
): number | undefined {
  const ms = Date.parse(`${day} ${month} ${year} ${time} GMT`);
  return Number.isNaN(ms) ? undefined : ms;
}
