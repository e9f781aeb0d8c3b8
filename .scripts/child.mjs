// Child processes for the scripts: they end with us.
import { spawn } from 'node:child_process';

const running = new Set();

/** Ends what is under way with `signal`. */
export function endChildren(signal) {
  for (const child of running) child.kill(signal);
}

/** Runs a command with its output held back. Answers the exit code and all it said; a command that cannot be started answers 1. */
export async function runQuietly(cwd, command, args, options = {}) {
  const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], ...options });
  const chunks = [];
  child.stdout.on('data', (chunk) => chunks.push(chunk));
  child.stderr.on('data', (chunk) => chunks.push(chunk));
  const code = await ended(child).catch((error) => {
    chunks.push(Buffer.from(error.message));
    return 1;
  });
  return { code, output: Buffer.concat(chunks).toString() };
}

/** Runs a command in the terminal's view. Answers the exit code. */
export async function runOpenly(cwd, command, args, options = {}) {
  const env = process.stdout.isTTY ? process.env : { ...process.env, NO_COLOR: '1' };
  return ended(spawn(command, args, { cwd, stdio: 'inherit', env, ...options }));
}

function ended(child) {
  running.add(child);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
  }).finally(() => running.delete(child));
}
