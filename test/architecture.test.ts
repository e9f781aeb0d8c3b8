import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

/** The folders show the architecture, and imports run one way through them. */

const ROOT = join(import.meta.dirname, '..');
const LINES_MAX = 400;

/** What a folder may import besides itself. */
const ARROWS: Record<string, readonly string[]> = {
  devices: [],
  simulators: ['devices'],
  broker: ['devices'],
  'dashboard-api': ['broker', 'devices'],
  'server.ts': ['dashboard-api', 'broker', 'devices'],
  'main.ts': ['server.ts', 'broker'],
};

/** Adapters and protocols that meet only where the server wires them. */
const STRANGERS: readonly (readonly [string, string])[] = [
  ['broker/mqtt', 'broker/store/level'],
  ['broker/mqtt', 'broker/store/influx'],
  ['broker/commands', 'broker/mqtt'],
  ['broker/telemetry', 'broker/mqtt'],
  ['broker/registry', 'broker/mqtt'],
  ['broker/store', 'broker/mqtt'],
  ['broker/commands', 'broker/store/level'],
  ['broker/commands', 'broker/store/influx'],
  ['dashboard-api', 'broker/mqtt'],
  ['dashboard-api', 'broker/store/level'],
  ['dashboard-api', 'broker/store/influx'],
  ['broker/store/level', 'broker/store/influx'],
  ['broker/store/influx', 'broker/store/level'],
];

const files = Object.keys(ARROWS).flatMap(sourcesUnder);
const imports = new Map(files.map((file) => [file, importsOf(file)]));

describe('imports', () => {
  it('run only along the arrows of the design', () => {
    const wrong = edges().filter(([from, to]) => {
      const [source, target] = [topOf(from), topOf(to)];
      return source !== target && !ARROWS[source]?.includes(target);
    });
    expect(wrong.map(show)).toEqual([]);
  });

  it('never join protocols and adapters that only the server may join', () => {
    const wrong = edges().filter(([from, to]) =>
      STRANGERS.some(([source, target]) => from.startsWith(`${source}/`) && to.startsWith(`${target}/`)),
    );
    expect(wrong.map(show)).toEqual([]);
  });

  it('never go round in a circle, types included', () => {
    expect(findCircle()).toBeUndefined();
  });
});

describe('files', () => {
  it(`have at most ${LINES_MAX} lines`, () => {
    const long = files.filter((file) => read(file).split('\n').length > LINES_MAX + 1);
    expect(long).toEqual([]);
  });

  it('are named in kebab-case', () => {
    expect(files.filter((file) => !/^([a-z0-9]+(-[a-z0-9]+)*\/)*[a-z0-9]+(-[a-z0-9]+)*\.ts$/.test(file))).toEqual([]);
  });
});

function edges(): [from: string, to: string][] {
  return [...imports].flatMap(([from, targets]) => targets.map((to): [string, string] => [from, to]));
}

function show([from, to]: readonly [string, string]): string {
  return `${from} -> ${to}`;
}

function topOf(file: string): string {
  return file.split('/')[0] ?? file;
}

function sourcesUnder(path: string): string[] {
  if (path.endsWith('.ts')) return [path];
  return readdirSync(join(ROOT, path), { withFileTypes: true }).flatMap((entry) => {
    const inside = `${path}/${entry.name}`;
    if (entry.isDirectory()) return sourcesUnder(inside);
    return entry.name.endsWith('.ts') ? [inside] : [];
  });
}

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

function importsOf(file: string): string[] {
  const specifiers = read(file).matchAll(/(?:^|\n)\s*(?:import|export)\s[^;]*?from\s+'(\.[^']*)'|\bimport\(\s*'(\.[^']*)'\s*\)/g);
  return [...specifiers].map((match) => relative(ROOT, join(ROOT, dirname(file), match[1] ?? match[2] ?? '')));
}

/** A path that comes back to its start, or undefined. */
function findCircle(): string[] | undefined {
  const done = new Set<string>();
  const visit = (file: string, path: string[]): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return undefined;
    for (const target of imports.get(file) ?? []) {
      const circle = visit(target, [...path, file]);
      if (circle !== undefined) return circle;
    }
    done.add(file);
    return undefined;
  };
  for (const file of files) {
    const circle = visit(file, []);
    if (circle !== undefined) return circle;
  }
  return undefined;
}
