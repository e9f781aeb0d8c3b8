import { setTimeout as delay } from 'node:timers/promises';

/** Resident memory once it stays as it is: start-up and garbage are over. */
const LOOK_EVERY_MS = 250;
const CALM_LOOKS = 8;
const CALM_BYTES = 512 * 1_024;
const SETTLE_MS_MAX = 15_000;

/** Octets. `settleMsMax`: how long to wait for it at most. */
export async function settledBytes(server: { residentBytes(): number }, settleMsMax = SETTLE_MS_MAX): Promise<number> {
  const deadline = performance.now() + settleMsMax;
  let reference = server.residentBytes();
  for (let calm = 0; calm < CALM_LOOKS && performance.now() < deadline;) {
    await delay(LOOK_EVERY_MS);
    const now = server.residentBytes();
    if (Math.abs(now - reference) <= CALM_BYTES) {
      calm += 1;
    } else {
      calm = 0;
      reference = now;
    }
  }
  return server.residentBytes();
}
