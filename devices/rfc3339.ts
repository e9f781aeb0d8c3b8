/** Times as text (RFC 3339), or as a number or digits of epoch milliseconds. */
const NS_PER_MS = 1_000_000n;
/** The end of year 9999, the last that RFC 3339 can write. */
const TIME_MS_MAX = 253_402_300_799_999;

const DATE_TIME = /^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(?::\d{2}(\.\d{1,9})?)?(?:[Zz]|[+-]\d{2}:\d{2})$/;
const DATE = /^\d{4}-\d{2}-\d{2}$/;
const EPOCH_MS = /^\d{1,15}$/;

/** Epoch nanoseconds, all of the digits that are given; a date alone is its midnight in UTC. Undefined for what is no time from 1970 to 9999. */
export function epochNsOf(given: string | number): bigint | undefined {
  const text = String(given);
  if (EPOCH_MS.test(text)) return Number(text) <= TIME_MS_MAX ? BigInt(text) * NS_PER_MS : undefined;
  const match = DATE_TIME.exec(text);
  if ((match === null && !DATE.test(text)) || !isDayOfItsMonth(text)) return undefined;
  const fraction = match?.[1] ?? '';
  const ms = Date.parse(text.replace(fraction, '').replace(' ', 'T').toUpperCase());
  if (!(ms >= 0 && ms <= TIME_MS_MAX)) return undefined;
  return BigInt(ms) * NS_PER_MS + BigInt(fraction.slice(1).padEnd(9, '0'));
}

/** `Date.parse` takes February 30 for March 2. */
function isDayOfItsMonth(text: string): boolean {
  const [year, month, day] = text.slice(0, 10).split('-').map(Number);
  return day !== undefined && month !== undefined && day <= new Date(Date.UTC(year ?? 0, month, 0)).getUTCDate();
}
