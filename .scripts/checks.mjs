// npm test, npm run lint, npm run format: the checks, each with a heading and its time, and a table of what came of them.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { runOpenly, runQuietly } from './child.mjs';
import { build, PrepareError } from './prepare.mjs';

const TEST_RESULTS = '.cache/test-results.json';
const SUMMARY = '.cache/check-summary.json';

/** Runs every check, whatever the others came to; `args` go to vitest. Answers the exit code. */
export async function check(root, args) {
  mkdirSync(join(root, '.cache'), { recursive: true });
  for (const left of [TEST_RESULTS, SUMMARY]) rmSync(join(root, left), { force: true });
  const rows = [
    await timed('format', () => quietTool(root, 'oxfmt', ['--check'], 'Run `npm run format` to put it right.')),
    await timed('lint', () => quietTool(root, 'oxlint', [])),
    await timed('types', () => types(root)),
    await timed('tests', () => tests(root, args)),
  ];
  writeFileSync(join(root, SUMMARY), JSON.stringify(rows));
  process.stdout.write(`\n${table(rows)}\n`);
  return rows.every((row) => row.ok) ? 0 : 1;
}

/** Runs the linter in the open. Answers its exit code. */
export async function lint(root, args) {
  return runOpenly(root, ...tool(root, 'oxlint', args));
}

/** Formats every file in place. Answers the formatter's exit code. */
export async function format(root, args) {
  return runOpenly(root, ...tool(root, 'oxfmt', args));
}

async function timed(name, work) {
  process.stdout.write(`── ${name}\n`);
  const startedAt = performance.now();
  const { ok, detail = '' } = await work();
  return { name, ok, detail, seconds: (performance.now() - startedAt) / 1_000 };
}

async function quietTool(root, name, args, wayOut = '') {
  const { code, output } = await runQuietly(root, ...tool(root, name, args));
  if (code !== 0) process.stdout.write(`${output.trim()}\n${wayOut}\n`);
  return { ok: code === 0 };
}

async function types(root) {
  try {
    await build(root);
    return { ok: true };
  } catch (error) {
    if (!(error instanceof PrepareError)) throw error;
    process.stdout.write(`${error.message}\n`);
    return { ok: false };
  }
}

async function tests(root, args) {
  await readyTestServers();
  const options = ['run', '--root', root, '--config', 'test/vitest.config.ts'];
  const code = await runOpenly(root, ...tool(root, 'vitest', [...options, ...args]));
  const { passed, failed, skipped } = countTests(root);
  return { ok: code === 0, detail: `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}` };
}

/** Without them the tests that need one fail and say so; the others have something to tell all the same. */
async function readyTestServers() {
  if (!existsSync(new URL('./test-servers.mjs', import.meta.url))) return;
  try {
    const { ensureTestServers } = await import('./test-servers.mjs');
    await ensureTestServers();
  } catch (error) {
    process.stdout.write(`Servers that the tests need could not be made ready: ${error.message}\n`);
  }
}

/** The tests' counts in vitest's result file; a file that broke before its first test counts as one that failed. */
export function countTests(root) {
  let results;
  try {
    results = JSON.parse(readFileSync(join(root, TEST_RESULTS), 'utf8'));
  } catch {
    return { passed: 0, failed: 0, skipped: 0 };
  }
  const broken = results.testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  );
  return {
    passed: results.numPassedTests,
    failed: results.numFailedTests + broken.length,
    skipped: results.numPendingTests + results.numTodoTests,
  };
}

/** The checks of the last `npm test`, or undefined if it did not come to its end. */
export function lastChecks(root) {
  try {
    return JSON.parse(readFileSync(join(root, SUMMARY), 'utf8'));
  } catch {
    return undefined;
  }
}

function tool(root, name, args) {
  const manifest = createRequire(join(root, 'package.json')).resolve(`${name}/package.json`);
  const { bin } = JSON.parse(readFileSync(manifest, 'utf8'));
  return [process.execPath, [join(dirname(manifest), bin[name]), ...args]];
}

function table(rows) {
  const width = Math.max(...rows.map((row) => row.name.length));
  return rows
    .map((row) =>
      `${row.name.padEnd(width)}  ${row.ok ? 'ok    ' : 'FAILED'}  ${row.seconds.toFixed(1).padStart(6)} s  ${row.detail}`.trimEnd(),
    )
    .join('\n');
}
