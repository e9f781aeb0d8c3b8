import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { BOUND_NAMES, BOUNDS, DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { ConfigError, readConfig } from '../broker/config.ts';

const README = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

test('the README’s table of bounds is the one the server keeps to', () => {
  const [, rows] = /^\| bound \| variable \|.*\n\|[-| ]+\|\n((?:\|.*\|\n?)+)/m.exec(README) ?? [];
  const table = rows
    ?.trimEnd()
    .split('\n')
    .map((row) =>
      row
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  expect(table).toEqual(
    BOUND_NAMES.map((name) => {
      const { variable, byDefault, text } = BOUNDS[name];
      return [`\`${name}\``, `\`${variable}\``, String(byDefault), text];
    }),
  );
});

test('each bound has a variable of its own, and a default within its range', () => {
  expect(new Set(BOUND_NAMES.map((name) => BOUNDS[name].variable)).size).toBe(BOUND_NAMES.length);
  for (const name of BOUND_NAMES) {
    const { byDefault, lowest, highest } = BOUNDS[name];
    expect(byDefault, name).toBeGreaterThanOrEqual(lowest);
    expect(byDefault, name).toBeLessThanOrEqual(highest);
  }
  expect(readConfig({}).bounds).toEqual(DEFAULT_BOUNDS);
});

test.each(BOUND_NAMES)('%s is what its variable says, and a wrong value stops the start with a line that names it', (name) => {
  const { variable, lowest, highest } = BOUNDS[name];
  for (const value of [lowest, highest]) expect(readConfig({ [variable]: String(value) }).bounds[name]).toBe(value);
  for (const wrong of [String(lowest - 1), String(highest + 1), '1.5', '1e3', 'many', '0x10', ' ']) {
    const line = catching(() => readConfig({ [variable]: wrong }));
    expect(line).toBe(`${variable} is a whole number from ${lowest} to ${highest}, not "${wrong}"`);
  }
});

test('trusted proxies are addresses and networks; anything else stops the start', () => {
  expect(readConfig({}).trustedProxies).toEqual([]);
  expect(readConfig({ DOWNLINK_TRUST_PROXY: '127.0.0.1, 10.0.0.0/8,fd00::/8' }).trustedProxies).toEqual([
    '127.0.0.1',
    '10.0.0.0/8',
    'fd00::/8',
  ]);
  for (const wrong of ['true', '10.0.0.0/33', '10.0.0.0/8/8', 'proxy.example', '10.0.0.0/x', '::1/129']) {
    expect(catching(() => readConfig({ DOWNLINK_TRUST_PROXY: wrong }))).toMatch(/^DOWNLINK_TRUST_PROXY is a list/);
  }
});

function catching(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return 'nothing was thrown';
}
