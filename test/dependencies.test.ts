import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

/** What a fresh clone installs is the same everywhere, from whichever registry npm is set up for. */

type Manifest = Record<'dependencies' | 'devDependencies' | 'overrides', Record<string, string>>;
type Locked = { version?: string; resolved?: string; optionalDependencies?: Record<string, string> };

const manifest = readJson('package.json') as Manifest;
const locked = (readJson('package-lock.json') as { packages: Record<string, Locked> }).packages;

it('pins every dependency to one version', () => {
  const versions = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies, ...manifest.overrides });
  expect(versions.filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version))).toEqual([]);
});

it('locks packages without naming a registry', () => {
  expect(Object.keys(locked).filter((path) => locked[path]?.resolved !== undefined)).toEqual([]);
});

it('locks the optional packages of every platform, since npm ci refuses a lock file without them', () => {
  const names = new Set(Object.keys(locked).map((path) => path.replace(/^.*node_modules\//, '')));
  const missing = Object.values(locked).flatMap((entry) =>
    Object.keys(entry.optionalDependencies ?? {}).filter((name) => !names.has(name)),
  );
  expect(missing).toEqual([]);
});

it('runs no install script, as SECURITY.md says', () => {
  expect(readText('.npmrc').split('\n')).toContain('ignore-scripts=true');
});

it('has the versions that SECURITY.md calls pinned', () => {
  const rows = [...readText('SECURITY.md').matchAll(/^\| `([^`]+)`.*\| ([\d., ]+) \|$/gm)];
  expect(rows.length).toBeGreaterThan(5);
  for (const [, name = '', versions] of rows) {
    const found = Object.entries(locked).filter(([path]) => path.endsWith(`node_modules/${name}`));
    expect(
      [...new Set(found.map(([, { version }]) => version))].toSorted((a = '', b = '') => a.localeCompare(b)).join(', '),
      name,
    ).toBe(versions);
  }
});

function readText(path: string): string {
  return readFileSync(join(import.meta.dirname, '..', path), 'utf8');
}

function readJson(path: string): unknown {
  return JSON.parse(readText(path));
}
