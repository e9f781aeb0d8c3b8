import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** The tests talk to real servers, so what they wait for may take long on a busy machine: time is a limit here, never a measure. */
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: Math.max(2, availableParallelism() - 1),
    testTimeout: 180_000,
    hookTimeout: 120_000,
    teardownTimeout: 30_000,
    watch: false,
    reporters: ['default', 'json'],
    outputFile: { json: '.cache/test-results.json' },
    coverage: { include: ['main.ts', 'server.ts', 'devices/**', 'broker/**', 'dashboard-api/**', 'simulators/**'] },
  },
});
