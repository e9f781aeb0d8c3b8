import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BOUND_NAMES } from '../broker/bounds.ts';
import { COMMAND_STATES } from '../devices/command.ts';
import { LiveServer } from './live-server.ts';
import { Authority } from './tls-authority.ts';

/** The texts for those who run it say what the server does: its metrics, its settings, its files. */
const ROOT = join(import.meta.dirname, '..');
const OPERATIONS = read('docs/operations.md');
const UNIT = read('docs/downlink.service');

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

/** Cells of the rows of the table whose first heading is `heading`. */
function table(heading: string): string[][] {
  const [, rows] = new RegExp(`^\\| ${heading} \\|.*\\n\\|[-| ]+\\|\\n((?:\\|.*\\|\\n?)+)`, 'm').exec(OPERATIONS) ?? [];
  if (rows === undefined) throw new Error(`docs/operations.md has no table of ${heading}`);
  return rows
    .trimEnd()
    .split('\n')
    .map((row) =>
      row
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

function codesIn(text: string): string[] {
  const prose = text.replaceAll(/^```[^]*?^```$/gm, '');
  return [...prose.matchAll(/`([^`\n]+)`/g)].map(([, code]) => code ?? '');
}

describe('the tables of metrics and alerts', () => {
  let folder = '';
  let server: LiveServer;
  /** By name, with the names of the labels that are there. */
  const exposed = new Map<string, Set<string>>();
  /** As they are before anything has happened. */
  let fresh = '';

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'downlink-operations-'));
    const authority = await Authority.make();
    const { cert, key } = await authority.server();
    const files = { cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem'), clientCa: undefined, crl: undefined };
    await writeFile(files.cert, cert);
    await writeFile(files.key, key);
    server = await LiveServer.start({ tls: { enabled: true, files, mqttsPort: 0, httpsPort: 0, deviceAuth: 'either' } });
    fresh = await (await fetch(`${server.url}/metrics`)).text();
    const token = await server.createDevice('pump');
    await server.issue('pump', { name: 'start' });
    await server.request('GET', '/v1/device/commands', { credential: token });
    await server.request('POST', '/v1/device/telemetry', { credential: token, body: '{' });
    const text = await (await fetch(`${server.url}/metrics`)).text();
    for (const [, name] of text.matchAll(/^# HELP (\S+) /gm)) exposed.set(name ?? '', new Set());
    for (const [, name, labels] of text.matchAll(/^([a-z_]+)\{([^}]*)\}/gm)) {
      const known = exposed.get(name ?? '') ?? exposed.get((name ?? '').replace(/_(bucket|sum|count)$/, ''));
      for (const [, label] of (labels ?? '').matchAll(/(?:^|,)([a-z_]+)=/g)) if (label !== 'le') known?.add(label ?? '');
    }
  });

  afterAll(async () => {
    await server.close();
    await rm(folder, { recursive: true, force: true });
  });

  test('name every metric of ours that /metrics shows, and none that it does not', () => {
    const told = table('metric').map(([name]) => codesIn(name ?? '').join());
    const ours = [...exposed.keys()].filter((name) => name.startsWith('downlink_'));
    expect(told.toSorted()).toEqual(ours.toSorted());
  });

  test('name the labels that the metrics have', () => {
    const told = new Map(table('metric').map(([name, labels]) => [codesIn(name ?? '').join(), codesIn(labels ?? '')]));
    for (const [name, labels] of exposed) {
      if (!name.startsWith('downlink_') || labels.size === 0) continue;
      expect([...labels].toSorted(), name).toEqual(told.get(name)?.toSorted());
    }
    expect(told.get('downlink_journal_bytes')).toEqual([]);
  });

  test('name counters, and them alone, as Prometheus would have it', () => {
    const types = [...fresh.matchAll(/^# TYPE (\w+) (\w+)$/gm)];
    expect(types.length).toBeGreaterThan(50);
    for (const [, name = '', type] of types) {
      expect(name.endsWith('_total'), name).toBe(type === 'counter');
      expect(fresh).toMatch(new RegExp(`^# HELP ${name} .`, 'm'));
    }
  });

  test('ask in alerts for metrics that are there, with labels that are theirs, and say what to do', () => {
    const told = new Map(table('metric').map(([name, labels]) => [codesIn(name ?? '').join(), codesIn(labels ?? '')]));
    for (const [expression = '', , meaning = ''] of table('expression')) {
      expect(meaning.length, expression).toBeGreaterThan(20);
      for (const [, name = '', labels = ''] of expression.matchAll(
        /\b((?:downlink|process|nodejs)_[a-z0-9_]+)(?:\{([^}]*)\})?/g,
      )) {
        const known = name.replace(/_bucket$/, '');
        expect(exposed.has(known), name).toBe(true);
        for (const [, label = ''] of labels.matchAll(/(?:^|,)([a-z_]+)=/g)) expect(told.get(known), name).toContain(label);
      }
    }
  });

  test('ask in alerts for values of labels that there are', () => {
    const known = new Set<string>([...BOUND_NAMES, ...COMMAND_STATES, ...codesIn(table('metric').flat().join(' '))]);
    for (const [, value] of fresh.matchAll(/[{,][a-z_]+="([^"]*)"/g)) known.add(value ?? '');
    for (const [expression = ''] of table('expression')) {
      for (const [, , values = ''] of expression.matchAll(/[{,]([a-z_]+)=~?"([^"]*)"/g)) {
        if (expression.includes('job="downlink"')) continue;
        for (const value of values.split(/\\?\|/)) expect(known, expression).toContain(value);
      }
    }
  });

  test('ask in alerts for the increase of series alone that are there from the start, at 0, since Prometheus sees none otherwise', () => {
    const asked = table('expression').flatMap(([expression = '']) => [
      ...expression.matchAll(/increase\((\w+(?:\{[^}]*\})?)\[/g),
    ]);
    expect(asked.length).toBeGreaterThan(2);
    for (const [, series = ''] of asked) expect(fresh, series).toContain(`\n${series} 0`);
  });

  test('are written as PromQL: one expression in code, its brackets in pairs, windows and times with units', () => {
    for (const [cell = '', lasting = ''] of table('expression')) {
      const [expression = '', ...others] = codesIn(cell);
      expect(others, cell).toEqual([]);
      expect(cell).toBe(`\`${expression}\``);
      expect(lasting).toMatch(/^(\d+[mh])?$/);
      const closed: string[] = [];
      for (const [bracket] of expression.replaceAll(/"[^"]*"/g, '').matchAll(/[()[\]{}]/g)) {
        if ('([{'.includes(bracket)) closed.push(bracket);
        else expect(closed.pop(), expression).toBe('([{'[')]}'.indexOf(bracket)]);
      }
      expect(closed, expression).toEqual([]);
      for (const [, window = ''] of expression.matchAll(/\[([^\]]*)\]/g)) expect(window).toMatch(/^\d+[mh]$/);
      // A rate or an increase is of a counter.
      for (const [, name = ''] of expression.matchAll(/(?:rate|increase)\((\w+)/g)) expect(name).toMatch(/_(total|bucket)$/);
    }
  });

  test('name no metric of Node.js that is not there', () => {
    const named = codesIn(OPERATIONS).filter((code) => /^(process|nodejs)_[a-z0-9_]+$/.test(code));
    expect(named.filter((name) => !exposed.has(name))).toEqual([]);
    expect(named.length).toBeGreaterThan(4);
  });
});

test('every variable that the texts and the unit name is one that the server knows', () => {
  const readme = read('README.md');
  const known = new Set(readme.match(/\bDOWNLINK_[A-Z_]+\b/g));
  for (const text of [OPERATIONS, UNIT, read('SECURITY.md')]) {
    for (const name of text.match(/\bDOWNLINK_[A-Z_]+\b/g) ?? []) expect(known, name).toContain(name);
  }
});

test('the versions that SECURITY.md names are those of the lock file', () => {
  const { packages } = JSON.parse(read('package-lock.json')) as { packages: Record<string, { version?: string }> };
  const rows = [...read('SECURITY.md').matchAll(/^\| `([^`]+)`[^|]*\|.*\| ([\d., ]+) \|$/gm)];
  expect(rows.length).toBeGreaterThan(5);
  for (const [, name = '', named = ''] of rows) {
    const locked = Object.entries(packages).flatMap(([path, { version = '' }]) =>
      path.endsWith(`node_modules/${name}`) ? [version] : [],
    );
    expect(named.split(', ').toSorted(), name).toEqual([...new Set(locked)].toSorted());
  }
});

test('every link between the texts leads somewhere, headings included', () => {
  for (const file of ['README.md', 'SECURITY.md', 'docs/operations.md']) {
    for (const [, link = ''] of read(file).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(link)) continue;
      const [path = '', heading] = link.split('#');
      const target = path === '' ? file : join(dirname(file), path);
      expect(existsSync(join(ROOT, target)), `${file}: ${link}`).toBe(true);
      if (heading !== undefined) expect(headingsOf(read(target)), `${file}: ${link}`).toContain(heading);
    }
  }
});

test('the unit gives the server longer to stop than it takes at the most', () => {
  const stopMs = Number(/STOP_MS_MAX = ([\d_]+)/.exec(read('main.ts'))?.[1]?.replaceAll('_', ''));
  const unitSeconds = Number(/^TimeoutStopSec=(\d+)$/m.exec(UNIT)?.[1]);
  expect(stopMs).toBeGreaterThan(0);
  expect(unitSeconds * 1_000).toBeGreaterThan(stopMs);
});

function headingsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^a-z0-9 _-]/g, '')
      .replaceAll(' ', '-'),
  );
}
