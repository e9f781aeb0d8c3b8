/** Cuts line protocol into its rows. */

/** The rows of `text`, without the newlines that end them; empty rows are left out. */
export function rowsOf(text: string): string[] {
  const rows: string[] = [];
  let start = 0;
  for (const end of rowEnds(text)) {
    if (end > start) rows.push(text.slice(start, end));
    start = end + 1;
  }
  return rows;
}

/**
 * Where each row of `text` ends: at the newline that closes it, or the text's end. A newline inside a quoted string belongs to the
 * row (InfluxDB line protocol: only `\"` and `\\` are escapes there).
 */
export function rowEnds(text: string): number[] {
  const ends: number[] = [];
  let quote = text.indexOf('"');
  let newline = text.indexOf('\n');
  while (newline !== -1) {
    if (quote !== -1 && quote < newline) {
      const closing = closingQuote(text, quote);
      quote = text.indexOf('"', closing + 1);
      if (closing > newline) newline = text.indexOf('\n', closing + 1);
    } else {
      ends.push(newline);
      newline = text.indexOf('\n', newline + 1);
    }
  }
  if (text.length > 0 && ends.at(-1) !== text.length - 1) ends.push(text.length);
  return ends;
}

/** Where the string that opens at `open` closes; the end of the text when it never does. */
export function closingQuote(text: string, open: number): number {
  let quote = text.indexOf('"', open + 1);
  while (quote !== -1 && isEscaped(text, quote)) quote = text.indexOf('"', quote + 1);
  return quote === -1 ? text.length : quote;
}

function isEscaped(text: string, at: number): boolean {
  let backslashes = 0;
  while (text.charCodeAt(at - 1 - backslashes) === BACKSLASH) backslashes += 1;
  return backslashes % 2 === 1;
}

const BACKSLASH = 92;
