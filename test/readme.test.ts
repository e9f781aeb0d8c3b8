import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { STATUS_OF } from '../dashboard-api/problem.ts';
import { ERROR_CODES } from '../devices/error-codes.ts';

const README = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

/** The rows of the table `| code | status | meaning |`. */
function errorTable(): string[][] {
  const [, ...rows] = /^\| code \|.*\n\|[-| ]+\|\n((?:\|.*\|\n?)+)/m.exec(README) ?? [];
  if (rows[0] === undefined) throw new Error('README.md has no table "| code | status | meaning |" of the error codes');
  return rows[0]
    .trimEnd()
    .split('\n')
    .map((row) =>
      row
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

test('the README’s table of error codes is the one the server answers with', () => {
  const expected = Object.entries(ERROR_CODES).map(([code, meaning]) => [
    `\`${code}\``,
    String(STATUS_OF[code as keyof typeof STATUS_OF]),
    meaning,
  ]);
  expect(errorTable()).toEqual(expected);
});
