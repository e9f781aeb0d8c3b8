import { readFileSync } from 'node:fs';

/** On a virtual machine others may have had the processor's time: what is measured meanwhile is measured of them too. */
const NOTED_FROM = 0.01;
/** In the line `cpu` of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal. */
const STEAL = 7;
const FIELDS = 8;

/** From now on; gives what there is to say of it, if anything is. Where the system does not tell, nothing is. */
export function watchStolenTime(read: () => string = readStat): () => string | undefined {
  const before = timesIn(read());
  return () => {
    const after = timesIn(read());
    const share = (after.stolen - before.stolen) / (after.all - before.all);
    if (!(share >= NOTED_FROM)) return undefined;
    return `${(share * 100).toFixed(0)} % of the processors' time went to other virtual machines meanwhile: latencies are as much theirs`;
  };
}

/** Ticks since the system's start. */
function timesIn(stat: string): { readonly all: number; readonly stolen: number } {
  const [, ...fields] = (stat.split('\n')[0] ?? '').split(/ +/);
  const ticks = fields.slice(0, FIELDS).map(Number);
  return { all: ticks.reduce((sum, one) => sum + one, 0), stolen: ticks[STEAL] ?? 0 };
}

function readStat(): string {
  try {
    return readFileSync('/proc/stat', 'utf8');
  } catch {
    return '';
  }
}
