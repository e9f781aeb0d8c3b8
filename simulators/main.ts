import { randomInt } from 'node:crypto';
import { runFleet } from './fleet/fleet.ts';
import { HELP, parseOptions } from './options.ts';
import { replay } from './replay/replay.ts';
import { Screen } from './screen.ts';
import { UserError } from './user-error.ts';

/** `npm run simulate`: the fleet, or the replay of a recorded file. Exits with 1 when something is off. */
const screen = new Screen(process.stdout);
const enough = new AbortController();
const now = new AbortController();
let interruptedAtMs: number | undefined;

// npm and the terminal both pass a Ctrl-C on; only a later one means: now.
const AGAIN_MS_MIN = 500;

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    const atMs = performance.now();
    if (interruptedAtMs === undefined) {
      interruptedAtMs = atMs;
      enough.abort();
    } else if (atMs - interruptedAtMs > AGAIN_MS_MIN) {
      now.abort();
    }
  });
}

// Whoever reads the output may have had enough (`| head`); the run itself goes on to its end.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});

try {
  process.exitCode = (await run()) ? 0 : 1;
} catch (error) {
  screen.keep();
  console.error(error instanceof UserError ? error.message : error);
  process.exitCode = 1;
}

async function run(): Promise<boolean> {
  const options = parseOptions(process.argv.slice(2), process.env, randomInt(1_000_000));
  switch (options.command) {
    case 'help':
      process.stdout.write(HELP);
      return true;
    case 'fleet':
      return runFleet(options, screen, { enough: enough.signal, now: now.signal });
    case 'replay':
      return replay(options, screen, enough.signal);
  }
}
