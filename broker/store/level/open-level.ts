import { copyFile, link, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ClassicLevel, type DatabaseOptions } from 'classic-level';
import { checkTable } from './table-file.ts';
import { checkLog } from './wal-file.ts';

/**
 * Opens a LevelDB folder whatever state it is in. LevelDB by itself drops damaged pieces of its log without a word and hands out what
 * damaged tables hold, so the files are checked first. Where something is damaged: the folder is kept aside as it was
 * (`state.damaged-<time>`), the damaged pieces are marked so that LevelDB leaves them out, what is left is repaired and opened, and
 * each loss is told in one line with its place.
 */
export type Database = ClassicLevel;

export type OpenLevelOptions = {
  readonly options?: DatabaseOptions<string, string>;
  /** Tables beyond this many octets are not checked, newest first: a start is not to take minutes. */
  readonly checkedBytesMax?: number;
  /** Told one line for each loss. */
  readonly onDamage?: (line: string) => void;
};

export type OpenedLevel = { readonly db: Database; readonly wasDamaged: boolean };

const LOG_FILE = /^\d+\.log$/;
const TABLE_FILE = /^\d+\.(ldb|sst)$/;
const MANIFEST_FILE = /^MANIFEST-\d+$/;
/** After every key there is. */
const LAST_KEY = '\u{10ffff}';
const KEPT_ASIDE = /^(\d+\.(log|ldb|sst)|MANIFEST-\d+|CURRENT|LOG|LOG\.old)$/;

type Finding = { readonly file: string; readonly lines: readonly string[]; readonly replacement: Buffer | 'gone' | 'same' };
type Check = { readonly findings: readonly Finding[]; readonly needsRepair: boolean };

/** Throws the LevelDB error as it is when the folder cannot be opened even so, or is locked (`LEVEL_LOCKED` as its cause's code). */
export async function openLevel(folder: string, settings: OpenLevelOptions = {}): Promise<OpenedLevel> {
  const { options, onDamage = () => {} } = settings;
  const newDatabase = (): Database => new ClassicLevel(folder, { keyEncoding: 'utf8', valueEncoding: 'utf8', ...options });
  const { findings, needsRepair } = await check(folder, settings.checkedBytesMax ?? Number.POSITIVE_INFINITY);
  const losses = findings.filter(({ replacement }) => replacement !== 'same');
  let aside: string | undefined;
  if (losses.length > 0 || needsRepair) {
    await assertUnlocked(folder);
    aside = await keepAside(folder);
    for (const { file, replacement } of losses) await replace(join(folder, file), replacement);
    if (needsRepair) await ClassicLevel.repair(folder);
  }
  let isRepaired = needsRepair;
  let db = newDatabase();
  try {
    await db.open();
  } catch (error) {
    if (isRepaired || !isOfDamage(error)) throw error;
    onDamage(`${folder} cannot be opened as it is: ${(error as Error & { cause?: Error }).cause?.message ?? ''}`);
    aside ??= await keepAside(folder);
    await ClassicLevel.repair(folder);
    isRepaired = true;
    db = newDatabase();
    await db.open();
  }
  // A repair leaves tables that overlap, with the older value of a key before the newer one here and there; compaction sorts them.
  if (isRepaired) {
    await db.compactRange('', LAST_KEY);
    await rm(join(folder, 'lost'), { recursive: true, force: true });
  }
  for (const { lines } of findings) for (const line of lines) onDamage(line);
  if (aside !== undefined) onDamage(`${folder} was damaged and is mended as far as could be; it is kept as it was in ${aside}`);
  return { db, wasDamaged: aside !== undefined };
}

async function check(folder: string, checkedBytesMax: number): Promise<Check> {
  const names = await readdir(folder).catch(() => []);
  const findings: Finding[] = [];
  let needsRepair = false;
  const hasData = names.some((name) => LOG_FILE.test(name) || TABLE_FILE.test(name));
  const manifest = await currentManifest(folder);
  if (manifest === undefined && hasData) {
    const file = join(folder, 'CURRENT');
    findings.push({ file: 'CURRENT', lines: [`${file} is missing or damaged`], replacement: 'gone' });
    needsRepair = true;
  }
  for (const name of names.filter((file) => LOG_FILE.test(file) || MANIFEST_FILE.test(file))) {
    const file = join(folder, name);
    const { damaged, tornAt, marked } = checkLog(await readFile(file));
    const lines = damaged.map(({ at, bytes }) => `${file}: ${bytes} octets from ${at} on are damaged and left out`);
    if (tornAt !== undefined) lines.push(`${file}: ends within a write at octet ${tornAt}, which is left out`);
    const isManifest = MANIFEST_FILE.test(name);
    if (isManifest && name !== manifest) continue;
    if (isManifest && lines.length > 0) needsRepair = true;
    // What a crash leaves of its last write is no loss: LevelDB knows it, and nobody was promised it.
    if (lines.length > 0) findings.push({ file: name, lines, replacement: damaged.length > 0 ? marked : 'same' });
  }
  let checkedBytes = 0;
  for (const name of names.filter((file) => TABLE_FILE.test(file)).toSorted(newestFirst)) {
    const file = join(folder, name);
    checkedBytes += (await stat(file)).size;
    if (checkedBytes > checkedBytesMax) break;
    const { damaged, marked } = checkTable(await readFile(file));
    if (damaged.length === 0) continue;
    needsRepair = true;
    const lines = damaged.map(({ at, bytes }) => `${file}: ${bytes} octets from ${at} on are damaged and left out`);
    findings.push({ file: name, lines, replacement: marked ?? 'gone' });
  }
  return { findings, needsRepair };
}

function newestFirst(a: string, b: string): number {
  return Number.parseInt(b, 10) - Number.parseInt(a, 10);
}

/** The MANIFEST that CURRENT names, if both are there. Without CURRENT LevelDB would take the folder for new and empty it. */
async function currentManifest(folder: string): Promise<string | undefined> {
  const [, name] = /^(MANIFEST-\d+)\n$/.exec(await readFile(join(folder, 'CURRENT'), 'utf8').catch(() => '')) ?? [];
  if (name === undefined) return undefined;
  return (await stat(join(folder, name)).catch(() => undefined)) === undefined ? undefined : name;
}

/** Opens in a way that always fails, and before anything is touched: with `LEVEL_LOCKED` if another process has the folder. */
export async function assertUnlocked(folder: string): Promise<void> {
  try {
    await new ClassicLevel(folder).open({ createIfMissing: false, errorIfExists: true });
  } catch (error) {
    if (codeOf(error) === 'LEVEL_LOCKED') throw error;
  }
}

/** The same files under another name. Links: they are replaced, never written to, from here on. */
async function keepAside(folder: string): Promise<string> {
  const time = new Date().toISOString().replaceAll(':', '').replace(/\..*/, '');
  const aside = await freeName(`${folder}.damaged-${time}`);
  await mkdir(aside, { mode: 0o700 });
  for (const name of await readdir(folder)) {
    if (!KEPT_ASIDE.test(name)) continue;
    const [from, to] = [join(folder, name), join(aside, name)];
    const isAppendedTo = LOG_FILE.test(name) || name.startsWith('LOG');
    if (isAppendedTo) await copyFile(from, to);
    else await link(from, to).catch(() => copyFile(from, to));
  }
  return aside;
}

async function freeName(wanted: string): Promise<string> {
  const taken = new Set(await readdir(join(wanted, '..')));
  let name = wanted;
  for (let n = 2; taken.has(basename(name)); n += 1) name = `${wanted}-${n}`;
  return name;
}

async function replace(file: string, replacement: Finding['replacement']): Promise<void> {
  if (replacement === 'gone') return rm(file, { force: true });
  if (replacement === 'same') return;
  await writeFile(`${file}.mended`, replacement, { flush: true });
  await rename(`${file}.mended`, file);
}

/** A damaged file, or one that is missing; not a full disk, a lock, or a folder that may not be read. */
export function isOfDamage(error: unknown): boolean {
  const { message, cause } = error as Error & { cause?: Error };
  return /corrupt|no such file|missing files/i.test(`${codeOf(error)} ${message} ${cause?.message}`);
}

function codeOf(error: unknown): string | undefined {
  return (error as { cause?: { code?: string } }).cause?.code ?? (error as { code?: string }).code;
}
