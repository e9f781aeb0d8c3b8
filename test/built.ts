import { join } from 'node:path';

/** Compiles what tests start as processes of their own, unless that is done. */
export async function built(): Promise<void> {
  // @ts-expect-error The scripts have no types.
  const { prepare } = (await import('../.scripts/prepare.mjs')) as { prepare: (root: string, what: object) => Promise<void> };
  await prepare(join(import.meta.dirname, '..'), { build: true });
}
