/** Snappy's block format, the reading half: LevelDB may compress the index of a table, which is read to check the table. */

/** Throws RangeError when `input` is not Snappy. */
export function unsnap(input: Buffer): Buffer {
  let at = 0;
  const octet = (): number => {
    const value = input[at];
    if (value === undefined) throw new RangeError('cut short');
    at += 1;
    return value;
  };
  const littleEndian = (octets: number): number => {
    let value = 0;
    for (let i = 0; i < octets; i += 1) value += octet() * 256 ** i;
    return value;
  };
  let length = 0;
  for (let shift = 0, more = true; more; shift += 7) {
    const value = octet();
    length += (value & 0x7f) * 2 ** shift;
    more = value >= 0x80;
  }
  if (length > LENGTH_MAX) throw new RangeError('too long');
  const output = Buffer.alloc(length);
  let written = 0;
  while (at < input.length) {
    const tag = octet();
    if ((tag & 3) === 0) {
      const short = tag >>> 2;
      const count = (short < 60 ? short : littleEndian(short - 59)) + 1;
      if (at + count > input.length || written + count > length) throw new RangeError('a literal is cut short');
      input.copy(output, written, at, at + count);
      at += count;
      written += count;
    } else {
      const isShort = (tag & 3) === 1;
      const count = isShort ? ((tag >>> 2) & 7) + 4 : (tag >>> 2) + 1;
      const offset = isShort ? (tag >>> 5) * 256 + octet() : littleEndian((tag & 3) === 2 ? 2 : 4);
      if (offset === 0 || offset > written || written + count > length) throw new RangeError('a copy from nowhere');
      for (let i = 0; i < count; i += 1, written += 1) output[written] = output[written - offset] ?? 0;
    }
  }
  if (written !== length) throw new RangeError('cut short');
  return output;
}

/** More than any index or metaindex here has. */
const LENGTH_MAX = 64 * 1024 * 1024;
