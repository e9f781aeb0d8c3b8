// Prints the last line of a CI run, `N passed, N failed`, from what the last `npm test` left. A check other than the tests that
// failed (format, lint, types), and a run that ended early, count as one that failed.
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { countTests, lastChecks } from './checks.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { passed, failed, skipped } = countTests(root);
const checks = lastChecks(root);
const others = checks === undefined ? 1 : checks.filter((row) => !row.ok && !(row.name === 'tests' && failed > 0)).length;

process.stdout.write(`${passed} passed, ${failed + others} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`);
process.exitCode = failed + others > 0 || passed === 0 ? 1 : 0;
