/** CRC-32C (Castagnoli) as LevelDB stores it. Four tables, so that four octets go a step. */
const POLYNOMIAL = 0x82f63b78;
const MASK_DELTA = 0xa282ead8;

const T0 = new Int32Array(256);
const T1 = new Int32Array(256);
const T2 = new Int32Array(256);
const T3 = new Int32Array(256);
for (let n = 0; n < 256; n += 1) {
  let crc = n;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
  T0[n] = crc;
}
for (let n = 0; n < 256; n += 1) {
  T1[n] = next(T0[n] ?? 0);
  T2[n] = next(T1[n] ?? 0);
  T3[n] = next(T2[n] ?? 0);
}

function next(crc: number): number {
  return (crc >>> 8) ^ (T0[crc & 0xff] ?? 0);
}

/** Of `bytes[start..end)`, rotated and shifted as LevelDB does (so that checksums of checksums differ). */
export function maskedCrc32c(bytes: Uint8Array, start: number, end: number): number {
  let crc = -1;
  let i = start;
  // The hot loop: indices are in range, and `| 0` keeps the numbers small integers.
  for (const last = end - 3; i < last; i += 4) {
    crc ^= bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    crc = T3[crc & 0xff]! ^ T2[(crc >>> 8) & 0xff]! ^ T1[(crc >>> 16) & 0xff]! ^ T0[crc >>> 24]!;
  }
  for (; i < end; i += 1) crc = (crc >>> 8) ^ T0[(crc ^ bytes[i]!) & 0xff]!;
  crc = ~crc;
  return (((crc >>> 15) | (crc << 17)) + MASK_DELTA) >>> 0;
}
