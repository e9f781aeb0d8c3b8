// A lock between processes: a folder, since making one is atomic. Its holder touches it now and then; one that is not touched any
// more, or whose holder on this host is gone, is stale and taken away.
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { endChildren } from './child.mjs';

const TOUCH_MS = 2_000;
const STALE_MS = 60_000;
/** A folder without its owner's name this long was left half made. */
const NAMELESS_MS = 5_000;
const POLL_MS = 200;

/** Runs `work` while no other process holds `folder`. A signal ends the work's children, frees the lock and ends the process. */
export async function withLock(folder, work) {
  mkdirSync(dirname(folder), { recursive: true });
  await take(folder);
  const touch = setInterval(() => utimesSync(folder, new Date(), new Date()), TOUCH_MS);
  const release = () => {
    clearInterval(touch);
    rmSync(folder, { recursive: true, force: true });
  };
  const signals = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };
  const handlers = Object.entries(signals).map(([signal, code]) => {
    const handler = () => {
      endChildren(signal);
      release();
      process.exit(code);
    };
    process.once(signal, handler);
    return () => process.removeListener(signal, handler);
  });
  try {
    return await work();
  } finally {
    release();
    for (const remove of handlers) remove();
  }
}

async function take(folder) {
  let told = false;
  for (;;) {
    try {
      mkdirSync(folder);
      writeFileSync(join(folder, 'owner.json'), JSON.stringify({ pid: process.pid, host: hostname() }));
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    if (isStale(folder)) {
      takeAway(folder);
    } else if (!told) {
      process.stderr.write('Waiting for another command that is installing or building …\n');
      told = true;
    }
    await delay(POLL_MS);
  }
}

function isStale(folder) {
  const touchedMs = statSync(folder, { throwIfNoEntry: false })?.mtimeMs;
  if (touchedMs === undefined) return false;
  const silentMs = Date.now() - touchedMs;
  if (silentMs > STALE_MS) return true;
  const owner = ownerOf(folder);
  if (owner === undefined) return silentMs > NAMELESS_MS;
  return owner.host === hostname() && !isAlive(owner.pid);
}

function ownerOf(folder) {
  try {
    return JSON.parse(readFileSync(join(folder, 'owner.json'), 'utf8'));
  } catch {
    return undefined;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Only one of several that see a stale lock removes it: whoever holds the second folder looks again first. */
function takeAway(folder) {
  const removal = `${folder}.removal`;
  try {
    mkdirSync(removal);
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
    const heldSince = statSync(removal, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - heldSince > STALE_MS) rmSync(removal, { recursive: true, force: true });
    return;
  }
  try {
    if (!isStale(folder)) return;
    const aside = `${folder}.${process.pid}`;
    renameSync(folder, aside);
    rmSync(aside, { recursive: true, force: true });
  } finally {
    rmSync(removal, { recursive: true, force: true });
  }
}
