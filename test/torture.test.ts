import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

/** The torture, small: `npm run torture` is the whole of it. */
const ROOT = join(import.meta.dirname, '..');

it('finds all that a server acknowledged before it was killed, three times over', { timeout: 240_000 }, async () => {
  const { stdout } = await torture(
    '--rounds',
    '3',
    '--rate',
    '100',
    '--push',
    '4',
    '--sleepy',
    '4',
    '--round-ms',
    '600',
    '--seed',
    '4',
  );
  expect(stdout.match(/^round \d\/3 {2}killed /gm)).toHaveLength(3);
  expect(stdout).toMatch(/^mqtt qos 2 +[1-9]/m);
  expect(stdout).toContain('Nothing that was acknowledged is missing, and nothing is there twice.');
});

it('refuses an option that it does not know, in one line', async () => {
  await expect(torture('--rounds', 'many')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^--rounds is a whole number from 1 to 10000, not many$/m),
  });
});

/** Through the npm script's own way in, which builds first if it must. */
function torture(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  return promisify(execFile)(process.execPath, [join(ROOT, '.scripts/run.mjs'), 'torture', ...args], { cwd: ROOT });
}
