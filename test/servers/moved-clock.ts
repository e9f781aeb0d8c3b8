import { HOUR_MS } from '../../devices/clock.ts';

/**
 * Loaded into a server's process before the server: a message `{ advanceMs }` moves its clocks on, what it does by the hour is begun as often as that
 * brings, and then it answers. Timers shorter than an hour go on as they do.
 */
type Hourly = { readonly work: () => void; readonly everyMs: number; dueAt: number };

const hourly = new Set<Hourly>();
const now = Date.now;
const sinceStart = performance.now.bind(performance);
const { setInterval: every, clearInterval: stop } = globalThis;
let movedMs = 0;

Date.now = () => now() + movedMs;
performance.now = () => sinceStart() + movedMs;
Object.assign(globalThis, {
  setInterval: (work: () => void, everyMs: number) => {
    const timer = every(work, everyMs);
    if (everyMs >= HOUR_MS) Object.assign(timer, { hourly: follow({ work, everyMs, dueAt: performance.now() + everyMs }) });
    return timer;
  },
  clearInterval: (timer: (NodeJS.Timeout & { hourly?: Hourly }) | undefined) => {
    if (timer?.hourly !== undefined) hourly.delete(timer.hourly);
    stop(timer);
  },
});

process.on('message', (message: { advanceMs?: number }) => {
  if (typeof message.advanceMs !== 'number') return;
  movedMs += message.advanceMs;
  for (const one of hourly) {
    for (; one.dueAt <= performance.now(); one.dueAt += one.everyMs) one.work();
  }
  process.send?.({ movedMs });
});

function follow(one: Hourly): Hourly {
  hourly.add(one);
  return one;
}
