import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** An empty folder on the project's own disk, which goes when it is removed or when the benchmark ends, however it ends. */
export const SCRATCH_PARENT = join(process.cwd(), '.cache', 'bench');

export type ScratchFolder = { readonly path: string; remove(): Promise<void> };

export async function makeScratchFolder(prefix: string): Promise<ScratchFolder> {
  await mkdir(SCRATCH_PARENT, { recursive: true });
  const path = await mkdtemp(join(SCRATCH_PARENT, `${prefix}-`));
  const removeNow = (): void => rmSync(path, { recursive: true, force: true });
  process.once('exit', removeNow);
  const remove = async (): Promise<void> => {
    process.off('exit', removeNow);
    await rm(path, { recursive: true, force: true });
  };
  return { path, remove };
}
