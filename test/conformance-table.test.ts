import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FOR_CLIENTS, STATEMENTS } from './conformance-statements.ts';

/** `conformance.md` is made from the tests' names: `npx vitest run --config test/vitest.config.ts test/conformance-table.test.ts -u` writes it anew. */
const STATEMENT = /\[(MQTT-\d[\d.-]+-\d+)\]/g;
const GROUP = /^describe\('([^']+)'/gm;
/** A string in one line, as titles are. */
const TITLE = /'((?:[^'\\\n]|\\.)*\[MQTT-[^'\n]*)'/g;

type Kept = { readonly file: string; readonly title: string };

function testsOf(): Map<string, Kept[]> {
  const byStatement = new Map<string, Kept[]>();
  for (const file of readdirSync(import.meta.dirname)
    .filter((name) => name.endsWith('.test.ts'))
    .toSorted()) {
    const source = readFileSync(join(import.meta.dirname, file), 'utf8');
    const groups = [...source.matchAll(GROUP)];
    for (const match of source.matchAll(TITLE)) {
      const [, title = ''] = match;
      const group = groups.findLast(({ index }) => index < match.index)?.[1] ?? '';
      for (const [, id = ''] of title.matchAll(STATEMENT)) {
        const name = `${group} ${title.replaceAll(STATEMENT, '').trim()}`.trim();
        byStatement.set(id, [...(byStatement.get(id) ?? []), { file, title: name }]);
      }
    }
  }
  return byStatement;
}

function table(tests: ReadonlyMap<string, readonly Kept[]>): string {
  const rows = STATEMENTS.map(({ id, text, exception }) => {
    const kept = (tests.get(id) ?? []).map(({ file, title }) => `${title} (${file.replace('.test.ts', '')})`);
    return `| ${id} | ${text} | ${exception === undefined ? 'yes' : `yes, ${exception}`} | ${kept.join('; ') || '–'} |`;
  });
  return `# MQTT 3.1.1, statement by statement

What the standard's appendix B asks of a server, in short; whether it is kept, and the tests that say so. This page is made from the names of the tests. Not
listed is what a client alone has to do: ${FOR_CLIENTS.join(', ')}.

| statement | in short | kept | tests |
|---|---|---|---|
${rows.join('\n')}
`.replaceAll('\\', '');
}

test('the table of conformance is what the tests say', async () => {
  await expect(table(testsOf())).toMatchFileSnapshot('conformance.md');
});

test('every statement that concerns a server has a test, or a reason', () => {
  const tests = testsOf();
  expect(STATEMENTS.filter(({ id, exception }) => !tests.has(id) && exception === undefined).map(({ id }) => id)).toEqual([]);
});

test('tests name statements that there are', () => {
  const known = new Set([...STATEMENTS.map(({ id }) => id), ...FOR_CLIENTS]);
  expect([...testsOf().keys()].filter((id) => !known.has(id))).toEqual([]);
});
